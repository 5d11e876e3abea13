package iplist

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	"github.com/gaissmai/bart"
)

// maxMistakes bounds the length of an error, because a wrong file may be a long one.
const maxMistakes = 100

// builder makes a table of entries, and collects the mistakes in them.
type builder struct {
	table    *bart.Lite
	mistakes []error
	further  int // mistakes beyond maxMistakes
}

// add puts an entry into the table. unit and position are where it was found, for the error.
func (b *builder) add(unit string, position int, entry string) {
	prefix, err := parse(strings.TrimSpace(entry))
	if err != nil {
		b.mistake(unit, position, entry, err)
		return
	}
	b.table.Insert(prefix)
}

func (b *builder) mistake(unit string, position int, entry string, err error) {
	if len(b.mistakes) == maxMistakes {
		b.further++
		return
	}
	b.mistakes = append(b.mistakes, fmt.Errorf("iplist: %s %d: %q: %w", unit, position, clip(entry), err))
}

// maxEntry is how many bytes long an entry may be, with the spaces before it. Comments may be of any length.
const maxEntry = 4096

// read adds the lines of r that are not blank. Its error is that of r.
func (b *builder) read(r io.Reader) error {
	text := bufio.NewReaderSize(r, maxEntry)
	if mark, _ := text.Peek(len(byteOrderMark)); string(mark) == byteOrderMark {
		_, _ = text.Discard(len(byteOrderMark)) // Editors on Windows write one.
	}
	for line := 1; ; line++ {
		piece, err := text.ReadSlice('\n')
		entry := string(piece)
		i := strings.IndexAny(entry, "#;")
		if i >= 0 {
			entry = entry[:i]
		}
		switch entry = strings.TrimSpace(entry); {
		case errors.Is(err, bufio.ErrBufferFull) && i < 0:
			b.mistake("line", line, entry, errLong)
		case entry != "":
			b.add("line", line, entry)
		}
		for errors.Is(err, bufio.ErrBufferFull) { // the rest of a long line
			_, err = text.ReadSlice('\n')
		}
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return fmt.Errorf("iplist: line %d: %w", line, err)
		}
	}
}

const byteOrderMark = "\ufeff"

func (b *builder) err() error {
	if b.further > 0 {
		return errors.Join(errors.Join(b.mistakes...), fmt.Errorf("iplist: and %d more", b.further))
	}
	return errors.Join(b.mistakes...)
}

var errLong = fmt.Errorf("longer than %d bytes: is this a list of addresses, one a line?", maxEntry)

var errForm = errors.New(`want an address or a prefix, as in "192.0.2.7", "192.0.2.0/24" or "2001:db8::/32"`)

// parse reads an address or a prefix in canonical form. Its errors name what to write instead.
func parse(entry string) (netip.Prefix, error) {
	if !strings.Contains(entry, "/") {
		addr, err := netip.ParseAddr(entry)
		if err != nil {
			return netip.Prefix{}, errForm
		}
		if addr.Zone() != "" {
			return netip.Prefix{}, fmt.Errorf("addresses are looked up without their zone: write %q", addr.WithZone(""))
		}
		addr = addr.Unmap()
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	prefix, err := netip.ParsePrefix(entry)
	if err != nil {
		return netip.Prefix{}, errForm
	}
	if addr := prefix.Addr(); addr.Is4In6() {
		if prefix.Bits() < 96 {
			return netip.Prefix{}, errors.New(`a mapped prefix begins at /96, which is all of IPv4: write "0.0.0.0/0" if that is meant`)
		}
		prefix = netip.PrefixFrom(addr.Unmap(), prefix.Bits()-96)
	}
	if network := prefix.Masked(); network != prefix {
		return netip.Prefix{}, fmt.Errorf("has bits set behind its length: write %q for the address, or %q for the network",
			prefix.Addr(), network)
	}
	return prefix, nil
}

// clip shortens text that an error quotes, because a file may hold anything.
func clip(text string) string {
	const maxLength = 64
	if len(text) <= maxLength {
		return text
	}
	return text[:maxLength] + "…"
}
