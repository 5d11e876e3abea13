package iplist

import (
	"net/http"

	"github.com/gin-gonic/gin"
)

// Deny refuses clients on the list, and requests without an address, with [Forbid]. For another answer use
// [When]. It panics on a nil list.
func Deny(list *List) gin.HandlerFunc {
	checkArguments("Deny", list, Forbid)
	return When(list, Forbid)
}

// Allow refuses all but the clients on the list, with [Forbid]. For another answer use [Unless]. It panics
// on a nil list.
func Allow(list *List) gin.HandlerFunc {
	checkArguments("Allow", list, Forbid)
	return Unless(list, Forbid)
}

// When runs restrict for clients on the list, and for requests without an address: an own answer that
// aborts, a stricter limiter. It panics on a nil list or handler.
func When(list *List, restrict gin.HandlerFunc) gin.HandlerFunc {
	checkArguments("When", list, restrict)
	return func(c *gin.Context) {
		if addr := ClientAddr(c); !addr.IsValid() || list.Contains(addr) {
			restrict(c)
		}
	}
}

// Unless runs restrict for all but the clients on the list: a limiter, for example. It panics on a nil list
// or handler.
func Unless(list *List, restrict gin.HandlerFunc) gin.HandlerFunc {
	checkArguments("Unless", list, restrict)
	return func(c *gin.Context) {
		if !list.ContainsClient(c) {
			restrict(c)
		}
	}
}

// Forbid answers 403 Forbidden with {"error":"forbidden"}, and aborts.
func Forbid(c *gin.Context) {
	c.AbortWithStatusJSON(http.StatusForbidden, gin.H{"error": "forbidden"})
}

func checkArguments(name string, list *List, restrict gin.HandlerFunc) {
	if list == nil {
		panic("iplist: " + name + ": the list is nil; make one with New, or use new(List), which is empty")
	}
	if restrict == nil {
		panic("iplist: " + name + ": the handler is nil; give a limiter, or Forbid")
	}
}
