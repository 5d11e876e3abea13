package redistest_test

import (
	"context"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

func TestLinkIsLateAndCanBeCut(t *testing.T) {
	const rtt = 20 * time.Millisecond
	link := redistest.NewLink(t, redistest.Start(t).Addr, rtt)
	client := redis.NewClient(&redis.Options{Addr: link.Addr, MaxRetries: -1, DialerRetries: 1})
	t.Cleanup(func() { _ = client.Close() })
	ping := func() error { return client.Ping(context.Background()).Err() }
	took := func() time.Duration {
		start := time.Now()
		require.NoError(t, ping())
		return time.Since(start)
	}
	require.GreaterOrEqual(t, took(), 3*rtt, "TCP, HELLO and PING, at the least")
	require.GreaterOrEqual(t, took(), rtt)
	require.Equal(t, 1, link.Opened())

	link.SetRTT(0)
	link.Cut()
	require.Eventually(t, func() bool { return ping() == nil }, 5*time.Second, time.Millisecond)
	require.Equal(t, 2, link.Opened())

	link.SetDown(true)
	err := ping()
	require.Error(t, err)
	link.SetDown(false)
	require.Eventually(t, func() bool { return ping() == nil }, 5*time.Second, time.Millisecond)
}
