package iplist

import (
	"net/http"

	"github.com/gin-gonic/gin"

	"github.com/gin-ratelimit/ratelimit"
)

// Deny refuses clients on the list, and those whose address is unknown, with [Forbid]. For another answer use
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

// When runs restrict for clients on the list, and for those whose address is unknown. restrict may be a response of your
// own that aborts, or a stricter limiter, which ratelimit.Check finds. It panics on a nil list or handler.
func When(list *List, restrict gin.HandlerFunc) gin.HandlerFunc {
	checkArguments("When", list, restrict)
	return ratelimit.When(list.restricted, restrict)
}

// Unless runs restrict for all but the clients on the list. restrict may be a limiter, which ratelimit.Check finds. It
// panics on a nil list or handler.
func Unless(list *List, restrict gin.HandlerFunc) gin.HandlerFunc {
	checkArguments("Unless", list, restrict)
	return ratelimit.When(func(c *gin.Context) bool { return !list.ContainsClient(c) }, restrict)
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
