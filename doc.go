// Package ratelimit is token-bucket rate limiting for Gin.
//
// A limiter is a gin.HandlerFunc: put it on an engine, a group or one route.
//
//	limiter := ratelimit.New(
//		ratelimit.WithCapacity(20),
//		ratelimit.WithRefillRate(ratelimit.PerSecond(10)),
//	)
//	router.Use(limiter)
//
// Each client then has a bucket of 20 tokens that refills by 10 a second. A request takes one token. If the bucket is
// empty, the response is 429 Too Many Requests, whose Retry-After is the time until there is a token.
//
// # Who shares a bucket
//
// One call to [New] makes one set of buckets: register its value twice to share them, call New twice to keep them
// apart. Call it at start-up and never inside a handler, where each request would get new, full buckets and nothing
// would be limited.
//
// The default key is the client's address, as Gin's c.ClientIP() reports it. By default Gin trusts X-Forwarded-For from
// every peer, so a client can forge its address and escape the limit. Call engine.SetTrustedProxies first. [Check] finds
// this and other mistakes at start-up.
//
// # Where buckets live
//
// Buckets live in a [Store]: a [MemoryStore] in this process, a [RedisStore] that all instances share, or a
// [FallbackStore], which asks one and, while that fails, the other. All decide alike, bit for bit, because a bucket is
// counted in integers and never rounded. None of them owns a goroutine, and there is nothing to close.
//
// # What a request costs
//
// One token, unless [WithCost] sets another cost. [Settle] corrects the cost once it is known, and [WithChargeIf] decides
// after the handlers whether the request is charged at all. A request that is refused is not charged.
//
// # What happens when a store fails
//
// By default the request passes ([FailOpen]); [FailClosed] answers 503 instead. A client that hangs up is not a failure.
//
// # Watching it work
//
// [WithObserver] receives an [Event] for each decision. [LogObserver] and [Stats] are observers; [Explain] returns how each
// limiter decided on one request. Metrics and traces are in modules of their own, below extra.
package ratelimit
