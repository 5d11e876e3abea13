package tune

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"hash/maphash"
	"slices"
	"strings"
)

// clients finds the index of a client by its host.
type clients struct {
	trace *Trace
	most  int    // 0: no bound
	key   []byte // of the hashes that stand for hosts; nil for the hosts themselves

	addresses *addresses
	others    map[string]int32

	seed   maphash.Seed
	latest []uint32 // hash of the last user agent of each client
	agents map[clientAgent]struct{}
}

// clientAgent is a user agent, by its hash, that a client has had.
type clientAgent struct {
	client int32
	agent  uint32
}

func newClients(t *Trace, o Options) *clients {
	c := &clients{trace: t, most: o.MaxClients, addresses: newAddresses(), others: make(map[string]int32), seed: maphash.MakeSeed(), agents: make(map[clientAgent]struct{})}
	if o.Anonymize {
		c.key = make([]byte, sha256.Size)
		_, _ = rand.Read(c.key) // It never fails.
	}
	return c
}

// of returns the index of a client. It is not ok if there are too many already.
func (c *clients) of(host []byte) (client int32, ok bool) {
	address, isAddress := ipv4(host)
	if isAddress {
		client, ok = c.addresses.get(address)
	} else {
		client, ok = c.others[string(host)]
	}
	if ok {
		return client, true
	}
	t := c.trace
	if c.most > 0 && len(t.Clients) >= c.most {
		c.beyond(host)
		return 0, false
	}
	client = int32(len(t.Clients))
	if isAddress {
		c.addresses.add(address, client)
	} else {
		c.others[string(host)] = client
	}
	t.Clients = append(t.Clients, c.shown(host))
	t.Agents = append(t.Agents, 0)
	c.latest = append(c.latest, 0)
	return client, true
}

// beyond counts a request of a client that is not kept.
func (c *clients) beyond(host []byte) {
	const named = 5
	b := &c.trace.Beyond
	b.Requests++
	if len(b.Clients) < named {
		if name := c.shown(host); !slices.Contains(b.Clients, name) {
			b.Clients = append(b.Clients, name)
		}
	}
}

// shown is how a client is named.
func (c *clients) shown(host []byte) string {
	if c.key == nil {
		return printable(string(host))
	}
	mac := hmac.New(sha256.New, c.key)
	mac.Write(host)
	return strings.ToLower(base32.StdEncoding.EncodeToString(mac.Sum(nil)[:10]))
}

// agent counts a user agent of a client, if it is new.
func (c *clients) agent(client int32, agent []byte) {
	if bytes.Equal(agent, []byte{'-'}) {
		return
	}
	hash := uint32(maphash.Bytes(c.seed, agent)) | 1 // 0 is none.
	if c.latest[client] == hash || c.trace.Agents[client] == MaxAgents {
		return
	}
	c.latest[client] = hash
	if _, known := c.agents[clientAgent{client, hash}]; !known {
		c.agents[clientAgent{client, hash}] = struct{}{}
		c.trace.Agents[client]++
	}
}
