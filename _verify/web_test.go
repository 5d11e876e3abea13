package verify

import (
	"net/http"
	"net/http/httptest"

	"github.com/gin-gonic/gin"
)

// routed is an engine with one route behind the handlers.
func routed(handlers ...gin.HandlerFunc) *gin.Engine {
	engine := gin.New()
	engine.GET("/", append(handlers, func(c *gin.Context) { c.String(http.StatusOK, "done") })...)
	return engine
}

// get sends a GET to an engine, with headers given as name, value, name, value.
func get(engine http.Handler, headers ...string) *httptest.ResponseRecorder {
	req := httptest.NewRequest(http.MethodGet, "/", http.NoBody)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Add(headers[i], headers[i+1])
	}
	w := httptest.NewRecorder()
	engine.ServeHTTP(w, req)
	return w
}
