package tune

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFirstSegments(t *testing.T) {
	for path, want := range map[string]string{
		"": "", "/": "/", "/a": "/a", "/a/": "/a", "/a/b": "/a", "/a?b/c": "/a", "//a": "/", "*": "*", "?a": "",
		"http://example.com/a/b?c": "/a", "http://example.com": "/", "example.com:443": "example.com:443", "\x16\x03": `\x16\x03`,
	} {
		trace := new(Trace)
		routes := newRoutes(trace, nil)
		for range 2 {
			assert.Zero(t, routes.of([]byte("GET"), []byte(path)))
		}
		assert.Equal(t, []string{want}, trace.Routes, path)
	}
}

func TestRoutesByFunction(t *testing.T) {
	trace := new(Trace)
	calls := 0
	routes := newRoutes(trace, func(method, path []byte) string {
		calls++
		assert.NotContains(t, string(path), "?")
		return string(method) + " /users/:id"
	})
	for range 10 {
		for i := range 10 {
			assert.EqualValues(t, 0, routes.of([]byte("GET"), fmt.Appendf(nil, "/users/%d?a=%d", i, i)))
			assert.EqualValues(t, 1, routes.of([]byte("PUT"), fmt.Appendf(nil, "/users/%d", i)))
			assert.EqualValues(t, 1, routes.of([]byte("PUT"), fmt.Appendf(nil, "/users/x%d", i)))
		}
	}
	assert.Equal(t, []string{"GET /users/:id", "PUT /users/:id"}, trace.Routes)
	assert.GreaterOrEqual(t, calls, 20)
	assert.Less(t, calls, 300, "answers are kept")
}

func TestLongPathsAreNotKept(t *testing.T) {
	trace := new(Trace)
	routes := newRoutes(trace, nil)
	long := "/" + strings.Repeat("a", 2*longestPath)
	assert.Equal(t, routes.of(nil, []byte(long)), routes.of(nil, []byte(long+"b")))
	assert.Equal(t, []string{long[:longestPath]}, trace.Routes)

	routes = newRoutes(trace, func(_, path []byte) string { return fmt.Sprint(len(path)) })
	assert.NotEqual(t, routes.of(nil, []byte(long)), routes.of(nil, []byte(long+"b")))
}

func TestRoutesAreBounded(t *testing.T) {
	var log strings.Builder
	for i := range maxRoutes + 10 {
		fmt.Fprintln(&log, strings.Replace(line, "GET /", fmt.Sprintf("GET /%d", i), 1))
	}
	fmt.Fprintln(&log, strings.Replace(line, "GET /", "GET /7", 1))
	trace, err := readText(t.Context(), Options{}, log.String())
	require.NoError(t, err)
	assert.Len(t, trace.Routes, maxRoutes+1)
	assert.Equal(t, "/9999", trace.Routes[trace.Requests[9_999].Route])
	for i := range 10 {
		assert.Equal(t, OtherRoutes, trace.Routes[trace.Requests[maxRoutes+i].Route])
	}
	assert.Equal(t, "/7", trace.Routes[trace.Requests[maxRoutes+10].Route])
}
