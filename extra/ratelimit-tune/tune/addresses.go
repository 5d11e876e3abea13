package tune

import (
	"math/bits"
	"math/rand/v2"
)

// addresses is a map from IPv4 addresses to clients. Most clients of most logs are found here, and finding them is mostly
// waiting for memory: at eight bytes an entry that is a third of what a Go map of strings takes.
type addresses struct {
	slots []addressSlot // a power of two, at most four fifths of them used
	used  int
	seed  uint64 // random, so that nobody can choose addresses that collide
}

type addressSlot struct {
	address uint32
	client  int32 // plus one; 0 for an empty slot
}

func newAddresses() *addresses {
	return &addresses{slots: make([]addressSlot, 1024), seed: rand.Uint64()}
}

// slot returns the slot of an address: it may be empty, and then the address is not known.
func (a *addresses) slot(address uint32) *addressSlot {
	mask := uint64(len(a.slots) - 1)
	i := a.start(address)
	for a.slots[i].client != 0 && a.slots[i].address != address {
		i = (i + 1) & mask
	}
	return &a.slots[i]
}

// start is where the search for an address starts. Neighbors are everywhere.
func (a *addresses) start(address uint32) uint64 {
	const golden = 0x9e3779b97f4a7c15
	high, low := bits.Mul64((uint64(address)^a.seed)*golden, a.seed|1)
	return (high ^ low) & uint64(len(a.slots)-1)
}

func (a *addresses) get(address uint32) (client int32, ok bool) {
	s := a.slot(address)
	return s.client - 1, s.client != 0
}

// add adds an address that is not known.
func (a *addresses) add(address uint32, client int32) {
	if a.used++; 5*a.used > 4*len(a.slots) {
		old := a.slots
		a.slots = make([]addressSlot, 2*len(old))
		for _, s := range old {
			if s.client != 0 {
				*a.slot(s.address) = s
			}
		}
	}
	*a.slot(address) = addressSlot{address, client + 1}
}

// ipv4 reads an address in its one usual form: others of the same number are other texts.
func ipv4(text []byte) (address uint32, ok bool) {
	dots, digits, part := 0, 0, uint32(0)
	for _, b := range text {
		switch {
		case digit(b) && (digits == 0 || part > 0):
			if part = part*10 + uint32(b-'0'); part > 255 {
				return 0, false
			}
			digits++
		case b == '.' && digits > 0 && dots < 3:
			address = address<<8 | part
			digits, part = 0, 0
			dots++
		default:
			return 0, false
		}
	}
	return address<<8 | part, dots == 3 && digits > 0
}
