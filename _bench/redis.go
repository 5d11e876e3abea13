package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	redisKeys  = 10_000 // enough that callers seldom take from the same key at a time
	redisBatch = 1
	redisLasts = 3  // times the time of other measurements: a take is a thousand times slower
	denyLasts  = 10 // times: long enough to show how often Redis is asked again about a refusal
)

var (
	redisCallers = []int{1, 16, 128}
	redisLimit   = limit{1e6, time.Second}
)

func hasRedis(p peer) bool { return p.redis != nil }

func redisScenarios() (all []scenario) {
	for _, callers := range redisCallers {
		all = append(all, scenario{fmt.Sprint("redis/", callers), hasRedis, func(p peer, o options) metrics {
			return onRedis(fmt.Sprint("redis/", callers), o.redis, callers, p, redisLimit, newKeys(redisKeys, false), allowed, o.lasts, redisLasts*o.lasts)
		}})
	}
	for _, callers := range redisCallers {
		name := fmt.Sprint("redis/hot/", callers)
		all = append(all, scenario{name, hasRedis, func(p peer, o options) metrics {
			return onRedis(name, o.redis, callers, p, roomy, newKeys(1, false), allowed, o.lasts, redisLasts*o.lasts)
		}})
	}
	return append(all, scenario{"redis/refused", hasRedis, func(p peer, o options) metrics {
		want := refused
		if p.kind == floor {
			want = allowed
		}
		return onRedis("redis/refused", o.redis, 16, p, tight, newKeys(1, false), want, o.lasts, denyLasts*o.lasts)
	}})
}

// onRedis measures takes from an empty server at an address, by a client with go-redis' defaults.
func onRedis(name, address string, callers int, p peer, per limit, keys keyset, want verdict, warmUp, lasts time.Duration) metrics {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: address})
	defer client.Close()
	must(client.FlushAll(ctx).Result())
	take := p.redis(client, per)
	take(keys.at(0))
	newLoad(callers, redisBatch, keys, same(take)).lasting(warmUp) // Connections, scripts, and most of the keys.

	histograms := make([]histogram, callers)
	l := newLoad(callers, redisBatch, keys, func(caller int) taker { return yielding(histograms[caller].timed(take)) })
	before := statsOf(ctx, client, p.sends)
	start := time.Now()
	perTake, _ := l.lasting(lasts)
	took := time.Since(start)
	after := statsOf(ctx, client, p.sends)
	for i := range histograms[1:] {
		histograms[0].merge(&histograms[i+1])
	}
	t := l.verdicts()
	takes := float64(t.sum())
	m := metrics{
		name:            float64(time.Second) / perTake * (1 - float64(t[failed])/takes), // An error is not a take.
		name + "/p50":   microseconds(histograms[0].quantile(.5)),
		name + "/p99":   microseconds(histograms[0].quantile(.99)),
		name + "/p99ms": microseconds(histograms[0].quantile(.99)) / 1000,
		name + "/cpu":   microseconds(after.cpu-before.cpu) / takes,
		name + "/calls": float64(after.calls-before.calls) / took.Seconds(),
	}
	m.check(name, t, want)
	return m
}

// yielding yields the core after each take, as the goroutine of a request does when it returns to its connection. Otherwise
// callers that are refused from memory would never block, and would keep others from reading their replies.
func yielding(take taker) taker {
	return func(key string) verdict {
		v := take(key)
		runtime.Gosched()
		return v
	}
}

// serverStats are what a server has spent since it started.
type serverStats struct {
	cpu   time.Duration
	calls int
}

func statsOf(ctx context.Context, client *redis.Client, commands []string) (s serverStats) {
	info := must(client.InfoMap(ctx, "cpu", "commandstats").Result())
	for _, name := range []string{"used_cpu_user", "used_cpu_sys"} {
		s.cpu += time.Duration(must(strconv.ParseFloat(info["CPU"][name], 64)) * float64(time.Second))
	}
	for _, name := range commands {
		if stat, ok := info["Commandstats"]["cmdstat_"+name]; ok {
			calls := 0
			must(fmt.Sscanf(stat, "calls=%d,", &calls))
			s.calls += calls
		}
	}
	return s
}

func redisTables() (tables []table) {
	for _, callers := range redisCallers {
		name := fmt.Sprint("redis/", callers)
		tables = append(tables, table{"Redis: " + plural(callers, "caller", "callers"),
			fmt.Sprintf("Takes of %d keys in turn, admitted, by one process on the same %d cores as the server.", redisKeys, runtime.NumCPU()), []column{
				{title: "takes/s", metric: name, format: "%.0f", ratio: true, more: true},
				{title: "p50, µs", metric: name + "/p50", format: "%.0f"},
				{title: "p99", metric: name + "/p99", format: "%.0f"},
				{title: "server CPU a take, µs", metric: name + "/cpu", format: "%.1f", ratio: true},
			}})
	}
	hot := table{title: "Redis: one hot key", text: "All callers take of the same key and are admitted. With leases, a take in this table is a take from memory."}
	for _, callers := range redisCallers {
		name := fmt.Sprint("redis/hot/", callers)
		hot.columns = append(hot.columns,
			column{title: plural(callers, "caller", "callers") + ": takes/s", metric: name, format: "%.0f"},
			column{title: "p50, µs", metric: name + "/p50", format: "%.2f"},
			column{title: "p99", metric: name + "/p99", format: "%.2f"},
			column{title: "commands sent/s", metric: name + "/calls", format: "%.0f"})
	}
	return append(tables, hot, table{"Redis: refused", "16 callers take of the same empty bucket.", []column{
		{title: "refusals/s", metric: "redis/refused", format: "%.0f", ratio: true, more: true},
		{title: "commands sent/s", metric: "redis/refused/calls", format: "%.1f"},
		{title: "p50, µs", metric: "redis/refused/p50", format: "%.1f"},
		{title: "p99", metric: "redis/refused/p99", format: "%.1f"},
		{title: "server CPU a refusal, µs", metric: "redis/refused/cpu", format: "%.2f"},
	}})
}
