package main

import (
	"net/http"

	"github.com/didip/tollbooth/v7"
	"github.com/didip/tollbooth/v7/limiter"
	"github.com/didip/tollbooth_gin"
)

var tollboothV7 = peer{
	name:   "tollbooth v7",
	module: "github.com/didip/tollbooth/v7",
	kind:   exact,
	memory: func(l limit) taker {
		limiter := tollboothLimiter(l)
		return func(key string) verdict {
			return verdictOf(tollbooth.LimitByKeys(limiter, []string{key}) == nil, nil)
		}
	},
	web: func(l limit, by address) http.Handler {
		limiter := tollboothLimiter(l)
		if by == peerAddress {
			limiter.SetIPLookups([]string{"RemoteAddr"})
		}
		return app(tollbooth_gin.LimitHandler(limiter))
	},
}

func tollboothLimiter(l limit) *limiter.Limiter {
	return tollbooth.NewLimiter(l.perSecond(), nil).SetBurst(l.capacity)
}
