// Command release makes the go.mod files of a checkout ready for a version, and prints the tags that the version needs:
//
//	go -C _release run . v0.1.0
//
// On main, nested modules require the root as v0.0.0 and replace it by the directory above. Those that users import have
// to require the released one instead. docs/releasing.md is the whole procedure.
package main

import (
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
)

const root = "github.com/gin-ratelimit/ratelimit"

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go -C _release run . v0.1.0")
		os.Exit(2)
	}
	released, err := prepare("..", os.Args[1])
	if err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
	for _, m := range released {
		fmt.Println(path.Join(dirOf(m.Path), m.Version))
	}
}

// dirOf is where one of our modules is, from the root.
func dirOf(name string) string { return strings.TrimPrefix(strings.TrimPrefix(name, root), "/") }

// prepare makes the modules in the checkout at top ready for a version, and returns them, the root first.
func prepare(top, version string) ([]module.Version, error) {
	if err := module.Check(root, version); err != nil {
		return nil, err
	}
	if module.CanonicalVersion(version) != version {
		return nil, fmt.Errorf("version %q: wants three numbers, for example v0.1.0", version)
	}
	released := []module.Version{{Path: root, Version: version}}
	files, err := filepath.Glob(filepath.Join(top, "extra", "*", "go.mod"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		name, err := prepareFile(file, version)
		if err != nil {
			return nil, err
		}
		released = append(released, module.Version{Path: name, Version: version})
	}
	return released, nil
}

// prepareFile makes a go.mod require our modules in a version and replace none of them. It returns its module's path.
func prepareFile(file, version string) (name string, err error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	parsed, err := modfile.Parse(file, data, nil)
	if err != nil {
		return "", err
	}
	for _, r := range parsed.Replace {
		if ours(r.Old.Path) {
			if err := parsed.DropReplace(r.Old.Path, r.Old.Version); err != nil {
				return "", err
			}
		}
	}
	for _, r := range parsed.Require {
		if ours(r.Mod.Path) {
			if err := parsed.AddRequire(r.Mod.Path, version); err != nil {
				return "", err
			}
		}
	}
	parsed.Cleanup()
	data, err = parsed.Format()
	if err != nil {
		return "", err
	}
	return parsed.Module.Mod.Path, os.WriteFile(file, data, 0o644)
}

func ours(name string) bool { return name == root || strings.HasPrefix(name, root+"/") }
