package ratelimit_test

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestExplainSaysWhatEachLimiterDid(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		first := newLimiter(t, ratelimit.WithName("first"), costOf(3))
		second := newLimiter(t, ratelimit.WithName("second"), ratelimit.WithShadow(), ratelimit.WithCapacity(1))
		var explained []ratelimit.Explanation
		engine := featureEngine(first.Handle, second.Handle, func(c *gin.Context) { explained = ratelimit.Explain(c) })
		get(engine)
		time.Sleep(2500 * time.Millisecond)
		get(engine)
		require.Len(t, explained, 2)
		e := explained[0]
		require.Equal(t, []any{"first", ratelimit.Enforce, 3, 3, 9, 6, ratelimit.SourceMemory, 500 * time.Millisecond},
			[]any{e.Name, e.Mode, e.Cost, e.Charged, e.Before, e.Result.Remaining, e.Result.Source, e.NextToken})
		require.Equal(t, ratelimit.KeyOf("key"), e.Key)
		require.Equal(t, `first: allowed; mode=enforce; by=memory; key=`+e.Key.String()+`; limit="1/s burst 10"; cost=3; charged=3; before=9; left=6; next=500ms; retry=0s; full=3.5s`, e.String())
		e = explained[1]
		require.Equal(t, []any{"second", ratelimit.Shadow, 1, 0}, []any{e.Name, e.Mode, e.Before, e.Result.Remaining})

		get(engine)
		get(engine)
		require.Equal(t, `second: refused; mode=shadow; by=memory; key=`+e.Key.String()+`; limit="1/s"; cost=1; charged=0; before=0; left=0; next=1s; retry=1s; full=1s`, explained[1].String())
	})
}

func TestDebugHeaderIsForThoseWhoKnowTheSecret(t *testing.T) {
	const secret = "correct horse battery"
	engine := featureEngine(newLimiter(t, ratelimit.WithDebugHeader(secret)).Handle, newLimiter(t, ratelimit.WithDebugHeader(secret)).Handle)
	ask := func(value string) []string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("X-RateLimit-Debug", value)
		w := httptest.NewRecorder()
		engine.ServeHTTP(w, r)
		return w.Header().Values("X-RateLimit-Explain")
	}
	require.Len(t, ask(secret), 2, "one for each limiter")
	require.Empty(t, ask(""))
	require.Empty(t, ask(secret+"!"))

	_, err := ratelimit.NewLimiter(ratelimit.WithRefillRate(ratelimit.PerSecond(1)), ratelimit.WithDebugHeader("short"))
	require.EqualError(t, err, "ratelimit: WithDebugHeader: the secret has 5 characters: must have at least 16")
}
