package main

import (
	"net/http"
	"time"

	"github.com/redis/go-redis/v9"
)

// peer is one contestant. What it has no code of its own for is nil.
type peer struct {
	name   string
	module string // whose version the report names
	kind   kind
	note   string // what keeps its decisions from being exact, or other fine print

	memory func(limit) taker                 // one token from memory
	web    func(limit, address) http.Handler // a Gin engine behind its middleware and headers
	direct bool                              // web knows the peer's address alone
	redis  func(*redis.Client, limit) taker  // one token from Redis
	sends  []string                          // the commands of a refusal on Redis, as they are sent
}

// kind says what a contestant is compared as.
type kind int

const (
	ours    kind = iota
	exact        // keys never share a bucket, and a bucket admits its capacity and what refills, no more and no less
	inexact      // counts windows, shares buckets or races
	floor        // what no exact limiter can be faster than
	aid          // no contestant: simple code to compare with
)

var peers = []peer{
	oursByStore, oursByLease, oursByLimiter,
	floorByArray, mutexAndMap, gateway,
	xTime, xTimeBare, juju, sethvargo, ulule, throttledGCRA, httprateWindows, jgl, tollboothV7, redisRate,
}

// limit is the same for every contestant: a burst of capacity, and one token back every per.
type limit struct {
	capacity int
	per      time.Duration
}

// window is the period over which a peer that counts windows admits capacity, for the same rate in the long run.
func (l limit) window() time.Duration { return time.Duration(l.capacity) * l.per }

func (l limit) perSecond() float64 { return 1 / l.per.Seconds() }

var (
	roomy = limit{1e9, time.Second} // more than any measurement takes, so everything is admitted
	tight = limit{1, time.Hour}     // empty after one take, so everything else is refused
)

// address says what a request is counted against.
type address int

const (
	clientAddress address = iota // the client's, behind proxies, as each library tells it by default
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

// must is for constructors whose arguments are constants here.
func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
