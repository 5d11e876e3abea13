package tune

import (
	"encoding/json"
	"os"
	"testing"

	"github.com/gin-gonic/gin"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestMain(m *testing.M) {
	gin.SetMode(gin.TestMode)
	os.Exit(m.Run())
}

func TestRouterFindsRoutesAsGin(t *testing.T) {
	router, err := NewRouter([]Route{{"GET", "/users/:id"}, {"GET", "/users/me"}, {"", "/files/*path"}, {"GET", "/files/*path"}, {"POST", "/login"}})
	require.NoError(t, err)
	for request, want := range map[[2]string]string{
		{"GET", "/users/7"}:                "GET /users/:id",
		{"GET", "/users/me"}:               "GET /users/me",
		{"GET", "/users/a%2Fb"}:            NoRoute, // Gin matches what is unescaped.
		{"GET", "/users/%zz"}:              "GET /users/:id",
		{"GET", "/users/"}:                 NoRoute,
		{"POST", "/users/7"}:               NoRoute,
		{"PUT", "/files/a/b"}:              "PUT /files/*path",
		{"GET", "/files/a/b"}:              "GET /files/*path",
		{"POST", "/login"}:                 "POST /login",
		{"POST", "/login/"}:                NoRoute, // It would be redirected.
		{"PROPFIND", "/login"}:             NoRoute,
		{"", ""}:                           NoRoute,
		{"\x16\x03\x01", "\x00\xff/users"}: NoRoute,
	} {
		assert.Equal(t, want, router.Route([]byte(request[0]), []byte(request[1])), request)
	}
}

func TestTraceIsByRoute(t *testing.T) {
	router, err := NewRouter([]Route{{"GET", "/users/:id"}})
	require.NoError(t, err)
	log := `192.0.2.7 - - [01/Aug/1995:02:00:00 -0400] "GET /users/1?a=b HTTP/1.0" 200 1
192.0.2.7 - - [01/Aug/1995:02:00:00 -0400] "GET /users/2 HTTP/1.0" 200 1
192.0.2.8 - - [01/Aug/1995:02:00:00 -0400] "GET / HTTP/1.0" 200 1
`
	trace, err := readText(t.Context(), Options{Route: router.Route}, log)
	require.NoError(t, err)
	assert.Equal(t, []string{"GET /users/:id", NoRoute}, trace.Routes)
	part := trace.OnRoute(1)
	assert.Equal(t, []string{"192.0.2.8"}, part.Clients)
	require.Len(t, part.Requests, 1)
	assert.Zero(t, part.Requests[0].Client)
	assert.Len(t, trace.OnRoute(0).Requests, 2)
}

func TestParseRoutesReadsWhatTheLibraryWrites(t *testing.T) {
	engine := gin.New()
	engine.Use(ratelimit.New(ratelimit.WithLimit(ratelimit.PerSecond(1).Burst(1))))
	engine.GET("/users/:id", func(*gin.Context) {})
	engine.POST("/login", func(*gin.Context) {})
	text, err := json.Marshal(ratelimit.Routes(engine))
	require.NoError(t, err)
	routes, err := ParseRoutes(text)
	require.NoError(t, err)
	assert.Equal(t, []Route{{"POST", "/login"}, {"GET", "/users/:id"}}, routes)
	routes, err = ParseRoutes([]byte(`[{"Method": "GET", "Path": "/a", "Handler": "main.a"}]`))
	require.NoError(t, err)
	assert.Equal(t, []Route{{"GET", "/a"}}, routes)
}

func TestRouteMistakesNameTheFix(t *testing.T) {
	_, err := ParseRoutes([]byte(`{"GET": "/a"}`))
	require.ErrorContains(t, err, `want a list as in [{"method": "GET", "path": "/users/:id"}]`)
	_, err = ParseRoutes([]byte(`[{"method": "", "path": ""}]`))
	require.ErrorContains(t, err, "there are none")
	_, err = ParseRoute("GET users")
	require.EqualError(t, err, `ratelimit-tune: route "GET users": want it as it is registered, as in "GET /users/:id"`)
	_, err = NewRouter([]Route{{"GET", "/a/:b"}, {"GET", "/a/:c"}})
	require.ErrorContains(t, err, `ratelimit-tune: route "GET /a/:c": ':c' in new path '/a/:c' conflicts`)
	_, err = NewRouter([]Route{{"get", "/a"}})
	require.ErrorContains(t, err, `ratelimit-tune: route "get /a": http method get is not valid`)
}

func FuzzRouter(f *testing.F) {
	router, err := NewRouter([]Route{{"GET", "/users/:id"}, {"", "/files/*path"}, {"GET", "/files/*path"}})
	require.NoError(f, err)
	names := make(map[string]bool)
	for _, r := range router.Engine().Routes() {
		names[r.Method+" "+r.Path] = true
	}
	f.Add([]byte("GET"), []byte("/users/%2e"))
	f.Add([]byte("PUT"), []byte("//files/../\xff"))
	f.Fuzz(func(t *testing.T, method, path []byte) {
		if route := router.Route(method, path); route != NoRoute {
			assert.True(t, names[route], route)
		}
	})
}
