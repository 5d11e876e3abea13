package verify

import (
	"context"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// farAway is the round trip of the second run of a case.
const farAway = 5 * time.Millisecond

// far is how clients reach Redis while a case is run from far away, else nil. No tests run in parallel with it.
var far dialFunc

type dialFunc func(ctx context.Context, network, addr string) (net.Conn, error)

// nearAndFar runs a case with clients next door to Redis, and, without -short, again with clients that are farAway.
func nearAndFar(t *testing.T, id string, run func(t *testing.T, c *trial)) {
	t.Helper()
	for _, rtt := range []time.Duration{0, farAway}[:pick(2, 1)] {
		t.Run(fmt.Sprintf("RTT %v", rtt), func(t *testing.T) {
			c := try(t, id)
			if rtt > 0 {
				c.where = fmt.Sprintf("RTT %v: ", rtt)
				far = dialOver(t, rtt)
				defer func() { far = nil }()
			}
			run(t, c)
			c.compare(rtt)
		})
	}
}

// dialOver returns a dialer over links. Where the server would refuse a connection, it does.
func dialOver(tb testing.TB, rtt time.Duration) dialFunc {
	tb.Helper()
	links := redistest.NewLinks(tb, rtt)
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, network, addr)
		if err != nil {
			return nil, err
		}
		_ = conn.Close()
		return links.Dial(ctx, network, addr)
	}
}

// noTest is the testing.TB for the links of a client process, which end with the process.
type noTest struct{ testing.TB }

func (noTest) Helper()           {}
func (noTest) Cleanup(func())    {}
func (noTest) Fatal(args ...any) { panic(fmt.Sprint(args...)) }
