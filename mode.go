package ratelimit

// Mode is whether a limiter's decisions count. It can be changed while requests run; see [Limiter.SetMode].
type Mode int32

// The modes of a limiter.
const (
	// Enforce refuses what the limits refuse.
	Enforce Mode = iota
	// Shadow decides, charges and tells the observers as Enforce does, and lets every request through at once: to try
	// limits on real traffic before they hurt. It charges its own buckets only, as far as they go: it leaves no
	// strikes, no bans and no places in a queue. Its headers appear only to requests with the secret of
	// [WithDebugHeader].
	Shadow
	// Off lets every request through and asks nobody.
	Off
)

// String returns "enforce", "shadow" or "off".
func (m Mode) String() string {
	switch m {
	case Enforce:
		return "enforce"
	case Shadow:
		return "shadow"
	case Off:
		return "off"
	default:
		return "unknown"
	}
}

// SetMode changes the mode for the requests that come from now on. It is the kill switch: SetMode(Off) needs
// no deployment. Anything but Shadow and Off enforces.
func (l *Limiter) SetMode(mode Mode) { l.mode.Store(int32(mode)) }

// Mode returns the mode.
func (l *Limiter) Mode() Mode { return Mode(l.mode.Load()) }
