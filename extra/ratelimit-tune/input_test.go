package main

import (
	"bytes"
	"flag"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/tune"
)

const line = `192.0.2.7 - - [01/Aug/1995:02:00:00 -0400] "GET / HTTP/1.0" 200 1713` + "\n"

// TestMain is the command itself, if a test runs it as one.
func TestMain(m *testing.M) {
	if os.Getenv("RATELIMIT_TUNE_RUN") != "" {
		main()
		os.Exit(0)
	}
	gin.SetMode(gin.TestMode)
	os.Exit(m.Run())
}

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	c := exec.CommandContext(t.Context(), os.Args[0], args...)
	c.Env = append(os.Environ(), "RATELIMIT_TUNE_RUN=1")
	return c
}

func TestInputFlags(t *testing.T) {
	flags := flag.NewFlagSet("", flag.ContinueOnError)
	o := inputFlags(flags)
	require.NoError(t, flags.Parse([]string{
		"-format", "json", "-fields", "client=request.ip,time=ts,status=s,method=m,path=p,agent=a", "-fields", "duration=d:ms,plan=pl,cost=c",
		"-anonymize", "-max-clients", "7",
	}))
	assert.Equal(t, &tune.Options{
		Format: "json", Anonymize: true, MaxClients: 7,
		Fields: tune.Fields{Client: "request.ip", Time: "ts", Status: "s", Method: "m", Path: "p", Agent: "a", Duration: "d:ms", Plan: "pl", Cost: "c"},
	}, o)
	for _, wrong := range []string{"", "client", "client=", "ip=a", "client=a,"} {
		require.ErrorContains(t, setFields(&o.Fields, wrong), "give pairs as in client=request.ip, of client, time, status", wrong)
	}
}

func TestProgress(t *testing.T) {
	var out bytes.Buffer
	start := time.Unix(1709209845, 0)
	p := &progress{out: &out, start: start}
	p.clear()
	assert.Empty(t, out.String(), "nothing was shown")
	p.show(start.Add(10*time.Second), 25e6, 100e6)
	p.show(start.Add(10*time.Second+100*time.Millisecond), 26e6, 100e6)
	p.show(start.Add(20*time.Second), 50e6, 0)
	p.clear()
	assert.Equal(t, "\r\x1b[Kread 25 % of 100 MB, 30s left\r\x1b[Kread 50 MB\r\x1b[K", out.String())
}

func TestNoProgressInAPipe(t *testing.T) {
	c := command(t, "-")
	c.Stdin = strings.NewReader(line)
	var out, diagnostics bytes.Buffer
	c.Stdout, c.Stderr = &out, &diagnostics
	require.NoError(t, c.Run())
	assert.Empty(t, diagnostics.String())
	assert.Contains(t, out.String(), "read 1 lines, missed 0: 1 requests of 1 clients")
	assert.Contains(t, out.String(), "standard input: common\n")
}

// An interrupt ends also a wait for standard input, and what was read by then counts.
func TestInterrupt(t *testing.T) {
	c := command(t, "-")
	in, err := c.StdinPipe()
	require.NoError(t, err)
	var out, diagnostics bytes.Buffer
	c.Stdout, c.Stderr = &out, &diagnostics
	require.NoError(t, c.Start())
	_, err = io.WriteString(in, strings.Repeat(line, 20_000)+"192.0.2.7 - - [01/Aug") // More than a pipe holds: it is being read.
	require.NoError(t, err)
	require.NoError(t, c.Process.Signal(os.Interrupt))
	err = c.Wait()
	var exit *exec.ExitError
	require.ErrorAs(t, err, &exit)
	assert.Equal(t, 1, exit.ExitCode())
	assert.Contains(t, out.String(), "PARTIAL: interrupted before the end of the logs")
	assert.Regexp(t, `^read \d{4,5} lines, missed 0: `, out.String())
	assert.Equal(t, "ratelimit-tune: interrupted: the result is of what was read until then\n", diagnostics.String())
}

// The report of an anonymous log has no name of it.
func TestAnonymousReport(t *testing.T) {
	log, out := t.TempDir()+"/access.log", t.TempDir()+"/out.json"
	secret := strings.Replace(strings.TrimSpace(line), "GET /", "GET /?secret-query", 1) + ` "secret-referer" "secret-agent"` + "\n"
	require.NoError(t, os.WriteFile(log, []byte(secret+"secret-line\n"+strings.Replace(secret, "192.0.2.7", "192.0.2.8", 1)), 0o600))
	c := command(t, "-anonymize", "-max-clients", "1", "-json", out, log)
	text, err := c.CombinedOutput()
	require.NoError(t, err)
	document, err := os.ReadFile(out)
	require.NoError(t, err)
	assert.Contains(t, string(text), "missed "+log+" line 2\n")
	assert.Contains(t, string(text), "1 requests of further clients are left out")
	for _, report := range []string{string(text), string(document)} {
		assert.NotContains(t, report, "secret")
		assert.NotContains(t, report, "192.0.2.")
	}
}
