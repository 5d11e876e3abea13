package tune

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestAddressesAreAMap(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	a, oracle := newAddresses(), make(map[uint32]int32)
	for client := range int32(20_000) {
		address := r.Uint32N(1 << 16) // Many are known, some are 0.
		got, ok := a.get(address)
		want, known := oracle[address]
		require.Equal(t, known, ok)
		if known {
			require.Equal(t, want, got)
			continue
		}
		a.add(address, client)
		oracle[address] = client
	}
	for address, want := range oracle {
		got, ok := a.get(address)
		require.True(t, ok)
		require.Equal(t, want, got)
	}
}

// What is read as an address is its one text.
func FuzzIPv4(f *testing.F) {
	for _, text := range []string{"192.0.2.7", "0.0.0.0", "255.255.255.255", "256.0.0.1", "01.2.3.4", "1.2.3", "1.2.3.4.", "1..2.3", "::1", ""} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		want, err := netip.ParseAddr(text)
		address, ok := ipv4([]byte(text))
		require.Equal(t, err == nil && want.Is4(), ok, text)
		if ok {
			assert.Equal(t, text, netip.AddrFrom4([4]byte{byte(address >> 24), byte(address >> 16), byte(address >> 8), byte(address)}).String())
		}
	})
}
