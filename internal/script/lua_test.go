package script

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Servers that speak Redis' protocol may run scripts in a newer Lua, which has integers beside floats. There too, all
// numbers of a reply are integers, and the same as under Redis' Lua 5.1.
func TestRepliesAreIntegersUnderNewerLua(t *testing.T) {
	lua, err := exec.LookPath("lua5.4")
	if err != nil {
		require.Empty(t, os.Getenv("CI"), "lua5.4 is required there")
		t.Skip("no lua5.4 here")
	}
	script := filepath.Join(t.TempDir(), "script.lua")
	require.NoError(t, os.WriteFile(script, []byte(text), 0o600))
	const ban = "2 500000 1\t3000000 1 1\t1000000\t1000000\tban"
	var input, want []string
	for _, run := range []struct{ args, reply string }{
		{"10 100000 1\t900000\t100000\t1", "1900000000000000 1 0 100000"},
		// At another rate, parts of a token are rounded up to whole units.
		{"10 142858 1\t1285722\t142858\t1", "1900000000050000 1 0 235716"},
		{"10 300000 7\t2700000\t300000\t7\t10 100000 1\t900000\t100000\t1", "1900000000100000 1 0 445001 100000"},
		{"10 300000 7\t445001\t300000\t7\t10 100000 1\t100000\t100000\t1\t1900000000100000\tplain\tback", "1900000000150000 1 0 0 0"},
		{"10 300000 7\t2700000\t300000\t7", "1900000000200000 1 0 300000"},
		{"look", "1900000000250000 1 0 2 10 300000 7 0 10 100000 1 0"},
		{"1 100000 1\t-1\t100000\t1\t" + ban, "1900000000300000 0 0 0 0"},
		{"1 100000 1\t-1\t100000\t1\t" + ban, "1900000000350000 0 0 0 1000000"},
		{"reset", "1900000000400000 1 0"},
		{"reset", "1900000000450000 0 0"},
		{"10 300000 7\t1\t2\t750000\tlease", "1900000000500000 1 0 900000 3"},
	} {
		input, want = append(input, "key|"+run.args), append(want, run.reply)
	}
	cmd := exec.CommandContext(t.Context(), lua, "testdata/redis.lua", script)
	cmd.Stdin = strings.NewReader(strings.Join(input, "\n") + "\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Equal(t, want, strings.Split(strings.TrimSpace(string(out)), "\n"))
}
