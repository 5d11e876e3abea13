package compat

import (
	"net/http"
	"net/http/cookiejar"
	"testing"

	"github.com/gin-contrib/sessions"
	"github.com/gin-contrib/sessions/cookie"
	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func newSessions() gin.HandlerFunc {
	return sessions.Sessions("session", cookie.NewStore([]byte("0123456789abcdef0123456789abcdef")))
}

// visit counts the client's requests in its session.
func visit(c *gin.Context) int {
	session := sessions.Default(c)
	visits, _ := session.Get("visits").(int)
	session.Set("visits", visits+1)
	if err := session.Save(); err != nil {
		panic(err)
	}
	return visits + 1
}

func (s *site) keepCookies(t *testing.T) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	require.NoError(t, err)
	s.client.Jar = jar
}

// A refused request neither loses its session nor resets it.
func TestSessions(t *testing.T) {
	eachOrder(t, newSessions, func(t *testing.T, o order) {
		limiter := newLimiter(2)
		site := serve(t, newRouter(t, o.with(limiter), func(c *gin.Context) { c.JSON(http.StatusOK, visit(c)) }))
		site.keepCookies(t)
		require.Equal(t, "1", site.get(t).body)
		require.Equal(t, "2", site.get(t).body)
		r := site.get(t)
		requireRefusal(t, r)
		require.NotContains(t, r.header, "Set-Cookie")

		limiter.SetMode(ratelimit.Off)
		require.Equal(t, "3", site.get(t).body)
	})
}

// What was saved in front of the limiter reaches the client with a refusal.
func TestSessionsSavedBeforeARefusal(t *testing.T) {
	limiter := newLimiter(1)
	site := serve(t, newRouter(t, []gin.HandlerFunc{newSessions(), func(c *gin.Context) { c.Set("visits", visit(c)) }, limiter.Handle},
		func(c *gin.Context) { c.JSON(http.StatusOK, c.GetInt("visits")) }))
	site.keepCookies(t)
	require.Equal(t, "1", site.get(t).body)
	r := site.get(t)
	requireRefusal(t, r)
	require.Len(t, r.header["Set-Cookie"], 1)
	limiter.SetMode(ratelimit.Off)
	require.Equal(t, "3", site.get(t).body, "the refused visit counts")
}

// A limiter counts by what the session says, if sessions come first.
func TestSessionsAsKey(t *testing.T) {
	authenticate := func(c *gin.Context) {
		session := sessions.Default(c)
		if name := c.Query("login"); name != "" {
			session.Set("user_id", name)
			if err := session.Save(); err != nil {
				panic(err)
			}
		}
		c.Set("user_id", session.Get("user_id"))
	}
	router := newRouter(t, []gin.HandlerFunc{newSessions(), authenticate, newLimiter(2, ratelimit.WithKeyFunc(ratelimit.ByValue("user_id"))).Handle}, hello)
	require.Empty(t, warningCodes(router))
	site := serve(t, router)
	for _, user := range []string{"ada", "grace"} {
		site.keepCookies(t)
		require.Equal(t, http.StatusOK, site.send(t, http.MethodGet, "/?login="+user).status)
		require.Equal(t, http.StatusOK, site.get(t).status)
		requireRefusal(t, site.get(t))
	}
}
