package verify

import (
	"bytes"
	"context"
	"encoding/json"
	"testing"

	toxiproxy "github.com/Shopify/toxiproxy/v2"
	"github.com/rs/zerolog"
)

// toxic is toxiproxy between a client and a server.
type toxic struct {
	t     *testing.T
	proxy *toxiproxy.Proxy
	addr  string
}

func startToxic(t *testing.T, upstream string) *toxic {
	t.Helper()
	server := toxiproxy.NewServer(toxiproxy.NewMetricsContainer(nil), zerolog.Nop())
	proxy := toxiproxy.NewProxy(server, t.Name(), "127.0.0.1:0", upstream)
	if err := proxy.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(proxy.Stop)
	return &toxic{t, proxy, proxy.Listen}
}

// add adds a fault to the way from Redis to the client, on open connections too.
func (x *toxic) add(kind string, attributes map[string]any) {
	x.t.Helper()
	text, err := json.Marshal(map[string]any{"type": kind, "stream": "downstream", "attributes": attributes})
	if err == nil {
		_, err = x.proxy.Toxics.AddToxicJson(bytes.NewReader(text))
	}
	if err != nil {
		x.t.Fatal(err)
	}
}

func (x *toxic) clean() { x.proxy.Toxics.ResetToxics(context.Background()) }
