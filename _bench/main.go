// Program _bench measures this library beside its peers, and prints a table for each scenario:
//
//	go -C _bench run . [-quick] [-only regexp] [-passes n] [-time d] [-o file.md]
//
// The machine is assumed to be noisy. So every measurement is repeated in passes, each of which goes through all contestants
// of a scenario one after the other, and the report shows medians over the passes and their ratios. On Unix, each measurement
// runs in a process of its own. Every contestant has the same limit and otherwise its defaults. Every decision in a
// measurement is counted, and the table shows those that the scenario does not expect.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"regexp"
	"syscall"
	"time"
)

func main() {
	if err := runOrServe(run); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	var (
		passes = flag.Int("passes", 5, "how often everything is measured")
		lasts  = flag.Duration("time", 200*time.Millisecond, "how long one measurement lasts")
		keys   = flag.Int("keys", 1_000_000, "how many keys are many")
		quick  = flag.Bool("quick", false, "2 passes of 50ms with 100,000 keys")
		only   = flag.String("only", "", "measure only what matches, for example '^memory/' or '^redis/.*/ulule'")
		output = flag.String("o", "", "also write the report to this file")
		bound  = flag.Duration("bound", 15*time.Minute, "begin no pass that may not end within this time")
		// For the processes that this one starts.
		scenarioName = flag.String("scenario", "", "measure this scenario alone and print it as JSON")
		peerName     = flag.String("peer", "", "the contestant for -scenario")
		redisAddress = flag.String("redis", "", "the server for -scenario")
	)
	flag.Parse()
	if *quick {
		*passes, *lasts, *keys, *bound = 2, 50*time.Millisecond, 100_000, 2*time.Minute
	}
	if *passes < 1 || *lasts <= 0 || *keys < 1 || *keys > 1<<24 {
		return errors.New("-passes, -time and -keys must be positive, and -keys at most 16777216")
	}
	o := options{lasts: *lasts, keys: *keys, redis: *redisAddress}
	if *scenarioName != "" {
		s, p, err := find(*scenarioName, *peerName)
		if err != nil {
			return err
		}
		return json.NewEncoder(os.Stdout).Encode(s.run(p, o))
	}
	match, err := regexp.Compile(*only)
	if err != nil {
		return fmt.Errorf("-only: %w", err)
	}

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	report := newReport(o)
	server, err := startRedis()
	if err != nil {
		report.redis = "none: " + err.Error()
	} else {
		defer server.close()
		o.redis, report.redis = server.address, server.version
	}
	if err := report.measure(ctx, o, *passes, *bound, match); err != nil {
		return err
	}
	text := report.markdown()
	fmt.Print(text)
	if *output != "" {
		return os.WriteFile(*output, []byte(text), 0o644)
	}
	return nil
}

// measure goes through all scenarios and contestants, passes times.
func (r *report) measure(ctx context.Context, o options, passes int, bound time.Duration, only *regexp.Regexp) error {
	start := time.Now()
	for r.passes < passes {
		began := time.Now()
		for _, s := range scenarios {
			fmt.Fprintf(os.Stderr, "pass %d of %d, %s: %s\n", r.passes+1, passes, time.Since(start).Round(time.Second), s.name)
			for i := range peers {
				p := peers[(i+r.passes)%len(peers)] // A different one is first in each pass.
				if !s.has(p) || !only.MatchString(s.name+"/"+p.name) || s.needsRedis() && o.redis == "" || s.isSlow() && r.passes >= slowPasses {
					continue
				}
				m, err := measureApart(ctx, s, p, o)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.add(p, m, err)
			}
		}
		r.passes++
		r.took = time.Since(start)
		if pass := time.Since(began); r.passes < passes && r.took+pass > bound {
			fmt.Fprintf(os.Stderr, "stopped after %s: another pass would take %s\n", plural(r.passes, "pass", "passes"), pass.Round(time.Second))
			break
		}
	}
	fmt.Fprintf(os.Stderr, "measured in %s\n", r.took.Round(time.Second))
	return nil
}

// measureApart measures in a process of its own.
func measureApart(ctx context.Context, s scenario, p peer, o options) (metrics, error) {
	const longest = 2 * time.Minute
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, program, "-scenario", s.name, "-peer", p.name,
		"-time", o.lasts.String(), "-keys", fmt.Sprint(o.keys), "-redis", o.redis)
	out, err := cmd.Output()
	if err != nil {
		if exit := new(exec.ExitError); errors.As(err, &exit) {
			fmt.Fprintf(os.Stderr, "%s with %s:\n%s", s.name, p.name, exit.Stderr)
		}
		return nil, fmt.Errorf("%s: %w", s.name, err)
	}
	var m metrics
	return m, json.Unmarshal(out, &m)
}
