package tune

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/extra/ratelimit-tune/internal/traffic"
)

func TestClientsOfAnyLength(t *testing.T) {
	var log strings.Builder
	for range 2 {
		for n := 1; n <= 40; n++ {
			fmt.Fprintln(&log, strings.Replace(line, "192.0.2.7", strings.Repeat("a", n), 1))
		}
		fmt.Fprintln(&log, strings.Replace(line, "192.0.2.7", "a\x00", 1))
	}
	trace, err := readText(t.Context(), Options{}, log.String())
	require.NoError(t, err)
	require.Len(t, trace.Clients, 41)
	for i, r := range trace.Requests {
		assert.EqualValues(t, i%41, r.Client)
	}
	assert.Equal(t, `a\x00`, trace.Clients[40])
}

func TestLongClientsAreMissed(t *testing.T) {
	trace, err := readText(t.Context(), Options{}, line+"\n"+strings.Replace(line, "192.0.2.7", strings.Repeat("a", 1025), 1))
	require.NoError(t, err)
	assert.Equal(t, []string{"192.0.2.7"}, trace.Clients)
	assert.Equal(t, 1, trace.Misses)
}

func TestFurtherClientsAreCounted(t *testing.T) {
	var log strings.Builder
	for i := range 30 {
		fmt.Fprintln(&log, strings.Replace(line, "192.0.2.7", fmt.Sprintf("192.0.2.%d", i%10), 1))
	}
	trace, err := readText(t.Context(), Options{MaxClients: 4}, log.String())
	require.NoError(t, err)
	assert.Len(t, trace.Clients, 4)
	assert.Len(t, trace.Requests, 12)
	assert.Equal(t, Beyond{18, []string{"192.0.2.4", "192.0.2.5", "192.0.2.6", "192.0.2.7", "192.0.2.8"}}, trace.Beyond)
}

func TestAgentsAreCounted(t *testing.T) {
	var log strings.Builder
	for i := range 2 * MaxAgents {
		fmt.Fprintf(&log, "%s \"-\" \"agent %d\"\n", line, i)
		fmt.Fprintf(&log, "%s \"-\" \"agent %d\"\n", strings.Replace(line, "192.0.2.7", "192.0.2.8", 1), i%3)
		fmt.Fprintf(&log, "%s \"-\" \"-\"\n", strings.Replace(line, "192.0.2.7", "192.0.2.9", 1))
	}
	trace, err := readText(t.Context(), Options{}, log.String())
	require.NoError(t, err)
	assert.Equal(t, []uint16{MaxAgents, 3, 0}, trace.Agents)
}

// Nothing that points to a person is left in what reports are made of.
func TestAnonymize(t *testing.T) {
	secrets := []string{"192.0.2.7", "192.0.2.8", "2001:db8::7", "alice", "secret-agent", "secret-referer", "secret-query", "raw-line", "secret-user"}
	const combined = `%s - alice [01/Aug/1995:02:00:00 -0400] "GET /a?q=secret-query HTTP/1.0" 200 1713 "http://secret-referer/" "secret-agent"` + "\n"
	log := fmt.Sprintf(combined, "192.0.2.7") + fmt.Sprintf(combined, "2001:db8::7") + fmt.Sprintf(combined, "192.0.2.7") + "raw-line alice\n" + fmt.Sprintf(combined, "192.0.2.8") +
		`{"ts":1,"request":{"remote_ip":"192.0.2.7","uri":"/a?secret-query"},"user_id":"secret-user"}`
	read := func() *Trace {
		trace, err := readText(t.Context(), Options{Anonymize: true, MaxClients: 2}, log)
		require.NoError(t, err)
		text := fmt.Sprintf("%+v", trace)
		for _, secret := range secrets {
			assert.NotContains(t, text, secret)
		}
		return trace
	}
	first, second := read(), read()
	assert.Len(t, first.Requests, 4)
	assert.Equal(t, []Miss{{"access.log", 4, ""}}, first.Missed)
	assert.Equal(t, first.Requests[1].Client, first.Requests[3].Client, "the same client has the same hash")
	assert.NotEqual(t, first.Clients[0], first.Clients[1])
	assert.NotEqual(t, first.Clients[0], second.Clients[0], "each run has a key of its own")
	assert.Equal(t, 1, first.Beyond.Requests)
	assert.Equal(t, []string{"/a"}, first.Routes)
}

// What a limit would do is the same with and without names.
func TestAnonymizeChangesNoFigure(t *testing.T) {
	var log bytes.Buffer
	require.NoError(t, traffic.Write(&log, "caddy", traffic.Day(3, time.Unix(1709209845, 0), 20)))
	named, err := readText(t.Context(), Options{}, log.String())
	require.NoError(t, err)
	hashed, err := readText(t.Context(), Options{Anonymize: true}, log.String())
	require.NoError(t, err)
	assert.Equal(t, named.Requests, hashed.Requests)
	assert.Equal(t, named.Agents, hashed.Agents)
}
