// Package compat runs limiters together with other middleware over real connections: gin-contrib's cors, gzip, requestid
// and sessions, and otelgin. It is a module of its own, so that nobody who limits requests downloads them.
//
//	go test -race ./...
//
// gin-contrib/timeout is missing, because the module proxy that continuous integration uses does not serve it. The test
// has a middleware of the same design in its place.
package compat
