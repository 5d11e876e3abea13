package verify

import (
	"flag"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/gin-gonic/gin"
	"github.com/redis/go-redis/v9"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"
)

// TestMain also runs the client processes, which are this same binary. At the end no goroutine may be left, and if all cases
// were run, it writes the report.
func TestMain(m *testing.M) {
	flag.Parse()
	gin.SetMode(gin.ReleaseMode)
	zerolog.SetGlobalLevel(zerolog.Disabled)
	redis.SetLogger(silent{})
	if spec, ok := os.LookupEnv(clientEnv); ok {
		if err := runClient(spec); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	began := time.Now()
	code := m.Run()
	leak := leaked(5 * time.Second)
	if leak != nil {
		fmt.Fprintln(os.Stderr, "goroutines are left:", leak)
		code = 1
	}
	if !testing.Short() {
		if err := writeReport(time.Since(began), leak); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked returns the goroutines that are left. Closed pools take up to a second to end theirs. toxiproxy's slicer blocks in a
// send for ever if its connection ends meanwhile.
func leaked(within time.Duration) error {
	slicer := goleak.IgnoreAnyFunction("github.com/Shopify/toxiproxy/v2/toxics.(*SlicerToxic).Pipe")
	deadline := time.Now().Add(within)
	for {
		err := goleak.Find(slicer)
		if err == nil || time.Now().After(deadline) {
			return err
		}
	}
}
