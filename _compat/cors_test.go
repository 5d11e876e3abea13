package compat

import (
	"net/http"
	"testing"

	"github.com/gin-contrib/cors"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

const (
	shop        = "https://shop.example"
	allowOrigin = "Access-Control-Allow-Origin"
)

func newCORS() gin.HandlerFunc {
	return cors.New(cors.Config{
		AllowOrigins:  []string{shop},
		AllowMethods:  []string{http.MethodGet},
		ExposeHeaders: []string{"Retry-After", "X-RateLimit-Remaining"},
	})
}

func (s *site) preflight(t *testing.T) reply {
	t.Helper()
	return s.send(t, http.MethodOptions, "/", "Origin", shop, "Access-Control-Request-Method", http.MethodGet)
}

func warningCodes(router *gin.Engine) []ratelimit.WarningCode {
	var codes []ratelimit.WarningCode
	for _, warning := range ratelimit.Check(router) {
		codes = append(codes, warning.Code)
	}
	return codes
}

func TestCORSBeforeTheLimiter(t *testing.T) {
	router := newRouter(t, []gin.HandlerFunc{newCORS(), newLimiter(1).Handle}, hello)
	require.Empty(t, warningCodes(router))
	site := serve(t, router)

	require.Equal(t, http.StatusForbidden, site.get(t, "Origin", "https://elsewhere.example").status, "cors refuses it, and nothing is taken")
	for range 5 {
		r := site.preflight(t)
		require.Equal(t, http.StatusNoContent, r.status)
		require.Equal(t, shop, r.header.Get(allowOrigin))
		require.NotContains(t, r.header, "X-Ratelimit-Remaining", "a preflight is not counted")
	}
	require.Equal(t, http.StatusOK, site.get(t, "Origin", shop).status)

	r := site.get(t, "Origin", shop)
	requireRefusal(t, r)
	require.Equal(t, shop, r.header.Get(allowOrigin))
	require.Equal(t, "Retry-After,X-Ratelimit-Remaining", r.header.Get("Access-Control-Expose-Headers"))
	require.Equal(t, http.StatusNoContent, site.preflight(t).status, "not refused either")
}

// What Check warns of is true.
func TestCORSBehindTheLimiter(t *testing.T) {
	router := newRouter(t, []gin.HandlerFunc{newLimiter(1).Handle, newCORS()}, hello)
	require.Equal(t, []ratelimit.WarningCode{ratelimit.WarnBeforeCORS}, warningCodes(router))
	site := serve(t, router)

	r := site.preflight(t)
	require.Equal(t, http.StatusNoContent, r.status)
	require.Equal(t, "0", r.header.Get("X-RateLimit-Remaining"))
	for _, r := range []reply{site.preflight(t), site.get(t, "Origin", shop)} {
		requireRefusal(t, r)
		require.NotContains(t, r.header, allowOrigin)
	}
}
