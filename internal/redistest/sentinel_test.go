package redistest

import (
	"testing"
	"time"
)

func TestSentinelFailover(t *testing.T) {
	t.Parallel()
	s := Sentinel(t)
	client := s.Client()
	set(t, client, "k", "v")
	old := s.Master()
	get(t, old.Client(), "k", "v")

	s.Failover()
	promoted := s.Master()
	if promoted == old {
		t.Fatal("still the same master")
	}
	write(t, s, "k", "v2")
	get(t, promoted.Client(), "k", "v2")

	s.WaitOK(30 * time.Second)
	if master, err := old.following(); master != promoted.Addr {
		t.Fatalf("%s follows %q: %v", old.Addr, master, err)
	}
}

func TestSentinelKilledMaster(t *testing.T) {
	t.Parallel()
	s := Sentinel(t, WithClock())
	old := s.Master()
	if len(s.Servers()) != 3 || len(s.Sentinels()) != 3 || s.Addrs()[0] != s.Sentinels()[0].Addr {
		t.Fatal(s)
	}
	old.Clock().Shift(20 * time.Second)

	old.Kill()
	s.WaitOK(30 * time.Second)
	promoted := s.Master()
	if promoted == old {
		t.Fatal("a dead master serves")
	}
	write(t, s, "k", "v")

	old.Restart()
	s.WaitOK(30 * time.Second)
	if s.Master() != promoted {
		t.Fatal("the old master took over again")
	}
	get(t, old.Client(), "k", "v")

	// The new role is in redis.conf, so that it is a replica from the start now.
	old.Restart()
	if master, err := old.info("replication"); master["role"] != "slave" {
		t.Fatal(master["role"], err)
	}
}

func TestSentinelLosesOneSentinel(t *testing.T) {
	t.Parallel()
	s := Sentinel(t)
	s.Sentinels()[0].Kill()
	old := s.Master()
	old.Kill()
	s.WaitOK(30 * time.Second)
	if s.Master() == old {
		t.Fatal("two sentinels did not fail over")
	}
	s.Sentinels()[0].Restart()
	s.WaitOK(30 * time.Second)
}

// write sets a key through the sentinels. The client learns of a failover a moment after the sentinels have agreed.
func write(t *testing.T, s *SentinelServers, key, value string) {
	t.Helper()
	client := s.Client()
	err := poll(10*time.Second, 10*time.Millisecond, func() error {
		return client.Set(t.Context(), key, value, 0).Err()
	})
	if err != nil {
		t.Fatal(err)
	}
}
