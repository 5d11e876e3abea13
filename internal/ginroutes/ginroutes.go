// Package ginroutes reads what Gin keeps in private fields: the handlers of each route, and the engine of a context. It
// writes none of them, and reports whether they are as in Gin 1.12, so that a newer Gin causes a warning and not a crash.
package ginroutes

import (
	"reflect"
	"unsafe"

	"github.com/gin-gonic/gin"
)

// Route is a route of an engine with its handlers. The handlers for requests that match no route are a Route without
// method and path.
type Route struct {
	Method, Path string
	Handlers     gin.HandlersChain
}

// Read returns the routes of an engine with their handlers, and the handlers for no route last. engine.Routes() has only
// the last handler of each route. Read is not ok if Gin's fields differ.
func Read(engine *gin.Engine) (routes []Route, ok bool) {
	routes, ok = read(reflect.ValueOf(engine))
	return routes, ok && len(routes) == len(engine.Routes())+1
}

func read(engine reflect.Value) (routes []Route, ok bool) {
	defer func() {
		if recover() != nil { // A field is missing, or is something else.
			routes, ok = nil, false
		}
	}()
	trees := engine.Elem().FieldByName("trees")
	for i := range trees.Len() {
		tree := trees.Index(i)
		routes = appendRoutes(routes, tree.FieldByName("method").String(), tree.FieldByName("root").Elem())
	}
	return append(routes, Route{Handlers: handlersOf(engine.Elem().FieldByName("allNoRoute"))}), true
}

// appendRoutes appends the routes below a node of a method's tree.
func appendRoutes(routes []Route, method string, node reflect.Value) []Route {
	if handlers := handlersOf(node.FieldByName("handlers")); len(handlers) > 0 {
		routes = append(routes, Route{method, node.FieldByName("fullPath").String(), handlers})
	}
	children := node.FieldByName("children")
	for i := range children.Len() {
		routes = appendRoutes(routes, method, children.Index(i).Elem())
	}
	return routes
}

// handlersOf reads a private field by its address, because reflect does not return its value.
func handlersOf(field reflect.Value) gin.HandlersChain {
	if field.Type() != reflect.TypeFor[gin.HandlersChain]() {
		panic("not Gin's handlers")
	}
	return *(*gin.HandlersChain)(field.Addr().UnsafePointer())
}

// Engine returns the engine of a context, nil if Gin's fields differ.
func Engine(c *gin.Context) *gin.Engine {
	if !hasEngineField {
		return nil
	}
	return *(**gin.Engine)(unsafe.Add(unsafe.Pointer(c), engineField.Offset))
}

var (
	engineField, foundEngineField = reflect.TypeFor[gin.Context]().FieldByName("engine")
	hasEngineField                = foundEngineField && engineField.Type == reflect.TypeFor[*gin.Engine]()
)
