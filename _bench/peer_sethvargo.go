package main

import (
	"context"
	"net/http"

	"github.com/sethvargo/go-limiter"
	"github.com/sethvargo/go-limiter/httplimit"
	"github.com/sethvargo/go-limiter/memorystore"
)

var sethvargo = peer{
	name:   "sethvargo/go-limiter",
	module: "github.com/sethvargo/go-limiter",
	kind:   inexact,
	note:   "fixed windows",
	memory: func(l limit) taker {
		store := sethvargoStore(l)
		return func(key string) verdict {
			_, _, _, ok, err := store.Take(context.Background(), key)
			return verdictOf(ok, err)
		}
	},
	web: func(l limit, by address) http.Handler {
		key := httplimit.IPKeyFunc("X-Forwarded-For", "X-Real-IP")
		if by == peerAddress {
			key = httplimit.IPKeyFunc()
		}
		return must(httplimit.NewMiddleware(sethvargoStore(l), key)).Handle(app())
	},
}

func sethvargoStore(l limit) limiter.Store {
	return must(memorystore.New(&memorystore.Config{Tokens: uint64(l.capacity), Interval: l.window()}))
}
