package main

import (
	"fmt"
	"time"

	"github.com/gin-ratelimit/ratelimit/internal/redistest"
)

// linkRTTs are the round trips of the links. A link is a proxy that delays both ways.
var linkRTTs = []time.Duration{time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond}

func linkName(rtt time.Duration, callers int) string { return fmt.Sprintf("link/%v/%d", rtt, callers) }

// hasLink reports whether a peer is measured over links. A lease is not, because it makes no difference to many keys. Of two
// peers that read and then write, one is enough.
func hasLink(p peer) bool { return hasRedis(p) && p.name != oursByLease.name && p.name != jgl.name }

func linkScenarios() (all []scenario) {
	for _, rtt := range linkRTTs {
		for _, callers := range redisCallers {
			name := linkName(rtt, callers)
			all = append(all, scenario{name, hasLink, func(p peer, o options) metrics {
				h := &host{}
				defer h.close()
				link := redistest.NewLink(h, o.redis, rtt)
				return onRedis(name, link.Addr, callers, p, redisLimit, newKeys(redisKeys, false), allowed, redisLasts*o.lasts, redisLasts*o.lasts)
			}})
		}
	}
	return all
}

func linkTables() (tables []table) {
	for _, rtt := range linkRTTs {
		t := table{title: fmt.Sprintf("Redis over a link of %v", rtt), text: "As above, but by a proxy that delays each direction by half of the round trip. It runs in the process of the callers, and timers make the link longer than its name: PING with 1 caller shows how long it is. With 128 callers, what sends each take by itself waits for a connection of go-redis' default pool, PING too."}
		for _, callers := range redisCallers {
			name := linkName(rtt, callers)
			t.columns = append(t.columns,
				column{title: plural(callers, "caller", "callers") + ": takes/s", metric: name, format: "%.0f"},
				column{title: "p99, ms", metric: name + "/p99ms", format: "%.1f"})
		}
		tables = append(tables, t)
	}
	return tables
}
