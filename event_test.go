package ratelimit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/gin-ratelimit/ratelimit"
)

func TestKey(t *testing.T) {
	require.Equal(t, "none", ratelimit.KeyOf("").String())
	require.Equal(t, "none", ratelimit.Key{}.String())
	require.Contains(t, map[ratelimit.Key]bool{ratelimit.KeyOf("a"): true}, ratelimit.KeyOf("a"))
	require.NotEqual(t, ratelimit.KeyOf("a"), ratelimit.KeyOf("b"))

	seen := map[string]string{}
	for i := range 10_000 {
		raw := "192.0.2." + strconv.Itoa(i)
		text := ratelimit.KeyOf(raw).String()
		require.Len(t, text, 11)
		require.Empty(t, strings.Trim(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"), "fit for any log")
		require.Empty(t, seen[text], "shares its digest with %s", raw)
		seen[text] = raw
	}
	for _, raw := range hostileKeys()[1:] {
		require.Len(t, ratelimit.KeyOf(raw).String(), 11)
	}
	// All instances, and all versions, must print the same for one client.
	require.Equal(t, "2mu3lWsE1Ph", ratelimit.KeyOf("192.0.2.1").String())
}

// eventOf is the event of one request whose key is raw.
func eventOf(raw string) (event ratelimit.Event) {
	ask(serving(perMinute(1, ratelimit.WithKeyFunc(fixed(raw)), ratelimit.WithObserver(
		func(_ context.Context, e ratelimit.Event) { event = e }))))
	return event
}

func TestEventsKeepTheKeyPrivate(t *testing.T) {
	const raw = "alice@example.org"
	event := eventOf(raw)
	digest := event.Key.String()
	require.Equal(t, ratelimit.KeyOf(raw).String(), digest)

	written := map[string]string{}
	for _, verb := range []string{"%v", "%+v", "%s", "%q"} {
		written[verb] = fmt.Sprintf(verb, event)
		written[verb+" of the key"] = fmt.Sprintf(verb, event.Key)
		written[verb+" of a pointer"] = fmt.Sprintf(verb, &event)
	}
	for name, handler := range map[string]func(*bytes.Buffer) slog.Handler{
		"slog text": func(b *bytes.Buffer) slog.Handler { return slog.NewTextHandler(b, nil) },
		"slog JSON": func(b *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(b, nil) },
	} {
		var b bytes.Buffer
		slog.New(handler(&b)).Info("limited", "event", event, "key", event.Key, slog.Group("g", "key", event.Key))
		written[name] = b.String()
	}
	asJSON, err := json.Marshal(event)
	require.NoError(t, err)
	written["JSON"] = string(asJSON)
	asJSON, err = json.Marshal(map[ratelimit.Key]int{event.Key: 1})
	require.NoError(t, err)
	written["JSON, as a map's key"] = string(asJSON)

	for how, text := range written {
		require.NotContains(t, text, "alice", how)
		require.Contains(t, text, digest, how)
	}
}

// Formats that do not call a String method must not show the key either.
func TestEventsKeepTheKeyPrivateFromDebuggers(t *testing.T) {
	const raw = "alice@example.org"
	event := eventOf(raw)
	type wrapped struct{ Event ratelimit.Event }
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
		for _, value := range []any{event, &event, event.Key, []ratelimit.Key{event.Key}, wrapped{event}} {
			text := fmt.Sprintf(verb, value)
			require.NotContains(t, text, "alice", "%s of a %T", verb, value)
			require.NotContains(t, text, fmt.Sprintf("%x", raw), "%s of a %T", verb, value)
		}
	}
}

func TestRefused(t *testing.T) {
	for want, events := range map[bool][]ratelimit.Event{
		true:  {{}, {Result: ratelimit.Result{RetryAfter: ratelimit.Never}}},
		false: {{Result: ratelimit.Result{Allowed: true}}, {Err: errStore}, {Err: errStore, Result: ratelimit.Result{Allowed: true}}},
	} {
		for _, e := range events {
			require.Equal(t, want, e.Refused(), "%+v", e)
		}
	}
}
