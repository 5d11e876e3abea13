package ginroutes

import (
	"reflect"
	"testing"

	"github.com/gin-gonic/gin"
)

// A Gin whose fields differ causes a warning, not a crash.
func TestRoutesOfAnotherGin(t *testing.T) {
	type node struct {
		handlers gin.HandlersChain
		fullPath string
		children []*node
	}
	type tree struct {
		method string
		root   *node
	}
	chain := gin.HandlersChain{func(*gin.Context) {}}
	type otherNode struct {
		handlers []func(int)
		children []*node
	}
	type otherTree struct {
		method string
		root   *otherNode
	}
	for name, engine := range map[string]any{
		"no trees": &struct {
			allNoRoute gin.HandlersChain
			routes     []tree
		}{},
		"other trees": &struct {
			allNoRoute gin.HandlersChain
			trees      int
		}{},
		"no root": &struct {
			allNoRoute gin.HandlersChain
			trees      []tree
		}{nil, []tree{{"GET", nil}}},
		"no noRoute":    &struct{ trees []tree }{[]tree{{"GET", &node{chain, "/", nil}}}},
		"other noRoute": &struct{ allNoRoute, trees []tree }{nil, []tree{{"GET", &node{chain, "/", nil}}}},
		"other nodes": &struct {
			allNoRoute gin.HandlersChain
			trees      []otherTree
		}{nil, []otherTree{{"GET", &otherNode{[]func(int){nil}, nil}}}},
	} {
		if routes, ok := read(reflect.ValueOf(engine)); ok || routes != nil {
			t.Errorf("%s: got %v", name, routes)
		}
	}

	same := &struct {
		allNoRoute gin.HandlersChain
		trees      []tree
	}{nil, []tree{{"GET", &node{chain, "/", []*node{{nil, "", []*node{{chain, "/a/b", nil}}}}}}}}
	routes, ok := read(reflect.ValueOf(same))
	if !ok || len(routes) != 3 || routes[0].Path != "/" || routes[1].Path != "/a/b" || len(routes[1].Handlers) != 1 {
		t.Errorf("the same: got %v, %v", routes, ok)
	}
}
