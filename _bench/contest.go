package main

import (
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
)

// peer is one contestant. A function is nil if the contestant is not measured by it.
type peer struct {
	name   string
	module string // whose version the report names
	kind   kind
	note   string // why its decisions are not exact, or other remarks

	memory func(limit) taker                 // one token from memory
	web    func(limit, address) http.Handler // a Gin engine behind its middleware and headers
	direct bool                              // web can only limit by the peer's address
	redis  func(*redis.Client, limit) taker  // one token from Redis
	sends  []string                          // the commands of a refusal on Redis, as they are sent
}

// kind is what a contestant is compared as.
type kind int

const (
	ours    kind = iota
	exact        // keys never share a bucket, and a bucket admits exactly its capacity and what refills
	inexact      // counts windows, shares buckets or races
	floor        // a bound: no exact limiter can be faster
	aid          // not a contestant, but simple code to compare with
)

var peers = []peer{
	oursByStore, oursByLease, oursByLimiter,
	floorByArray, mutexAndMap, gateway,
	xTime, xTimeBare, juju, sethvargo, ulule, throttledGCRA, httprateWindows, jgl, tollboothV7, redisRate,
}

// limit is the same for every contestant: a burst of capacity, and one token refilled every per.
type limit struct {
	capacity int
	per      time.Duration
}

// window is the period over which a peer that counts windows admits capacity, for the same rate in the long run.
func (l limit) window() time.Duration { return time.Duration(l.capacity) * l.per }

func (l limit) perSecond() float64 { return 1 / l.per.Seconds() }

var (
	roomy = limit{1e9, time.Second} // more than any measurement takes, so that everything is admitted
	tight = limit{1, time.Hour}     // empty after one take, so that everything else is refused
)

// address is which address a request is counted against.
type address int

const (
	clientAddress address = iota // the client's, behind proxies, as each library finds it by default
	peerAddress                  // the connection's
)

// taker takes one token.
type taker func(key string) verdict

type verdict uint8

const (
	refused verdict = iota
	allowed
	failed // no decision: an error
)

func verdictOf(ok bool, err error) verdict {
	switch {
	case err != nil:
		return failed
	case ok:
		return allowed
	default:
		return refused
	}
}

// must returns what a constructor has made. Here arguments are constants, so an error is a bug.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
