package redistest

// Migration is one slot on its way from one master to another. BeginMigration, MoveKeys and Finish are the stages of
// a live resharding, so that a test can use the cluster in each of them.
type Migration struct {
	cluster      *ClusterServers
	slot         int
	from, to     *Server
	fromID, toID string
}

// MigrateSlot moves the slot of key, with all keys in it, to another master.
func (c *ClusterServers) MigrateSlot(key string, to *Server) {
	c.tb.Helper()
	c.BeginMigration(key, to).Finish()
}

// BeginMigration opens the slot of key at both ends. The old master still serves the keys that it holds; for all
// others it sends clients to the new one (ASK).
func (c *ClusterServers) BeginMigration(key string, to *Server) *Migration {
	c.tb.Helper()
	slot, from := c.locate(key)
	m := &Migration{cluster: c, slot: slot, from: from, to: to}
	m.fromID, m.toID = m.id(from), m.id(to)
	m.set(to, "importing", m.fromID)
	m.set(from, "migrating", m.toID)
	return m
}

// MoveKeys moves the keys. From then on the old master sends clients to the new one for every key of the slot.
func (m *Migration) MoveKeys() {
	m.cluster.tb.Helper()
	for {
		keys, err := m.from.do("cluster", "getkeysinslot", m.slot, 100).StringSlice()
		if err != nil {
			m.cluster.tb.Fatal(err)
		}
		if len(keys) == 0 {
			return
		}
		args := []any{"migrate", loopback, m.to.port, "", 0, adminTimeout.Milliseconds(), "keys"}
		for _, key := range keys {
			args = append(args, key)
		}
		if err := m.from.do(args...).Err(); err != nil {
			m.cluster.tb.Fatal(err)
		}
	}
}

// Finish moves the keys that are left, gives the slot to the new master, and returns when all nodes know.
func (m *Migration) Finish() {
	m.cluster.tb.Helper()
	m.MoveKeys()
	m.set(m.to, "node", m.toID) // the new master first, so that the slot is never without one
	m.set(m.from, "node", m.toID)
	m.cluster.WaitOK(groupTimeout)
}

func (m *Migration) set(node *Server, state, id string) {
	m.cluster.tb.Helper()
	if err := node.do("cluster", "setslot", m.slot, state, id).Err(); err != nil {
		m.cluster.tb.Fatal(err)
	}
}

func (m *Migration) id(node *Server) string {
	m.cluster.tb.Helper()
	id, err := node.clusterID()
	if err != nil {
		m.cluster.tb.Fatal(err)
	}
	return id
}
