package ratelimit_test

import (
	"slices"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

// Any handler of an application may be the one that authenticates.
func TestCheckTrustsHandlersOfTheApplication(t *testing.T) {
	router := gin.New()
	require.NoError(t, router.SetTrustedProxies(nil))
	router.GET("/", func(*gin.Context) {}, ratelimit.New(
		ratelimit.WithRefillRate(ratelimit.PerMinute(5)), ratelimit.WithKeyFunc(ratelimit.ByBearerToken)), func(*gin.Context) {})
	require.False(t, slices.ContainsFunc(ratelimit.Check(router), func(w ratelimit.Warning) bool { return w.Code == ratelimit.WarnCredentials }))
}
