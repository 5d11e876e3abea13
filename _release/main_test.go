package main

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/mod/modfile"
	"golang.org/x/mod/module"
	"golang.org/x/mod/zip"
)

// All nested modules require ours in one spelling, v0.0.0, which is never released, and replace them by their
// directories.
func TestInnerRequirements(t *testing.T) {
	found := 0
	require.NoError(t, filepath.WalkDir("..", func(file string, entry fs.DirEntry, err error) error {
		if err != nil || entry.Name() != "go.mod" {
			return err
		}
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		parsed, err := modfile.Parse(file, data, nil)
		require.NoError(t, err)
		dir, err := filepath.Rel("..", filepath.Dir(file))
		require.NoError(t, err)
		require.Equal(t, path.Join(root, filepath.ToSlash(dir)), parsed.Module.Mod.Path, file)

		replaced := map[string]string{}
		for _, r := range parsed.Replace {
			require.Empty(t, r.Old.Version, "%s: replace %s", file, r.Old)
			replaced[r.Old.Path] = r.New.Path
		}
		for _, r := range parsed.Require {
			if !ours(r.Mod.Path) {
				continue
			}
			found++
			require.Equal(t, "v0.0.0", r.Mod.Version, "%s requires %s", file, r.Mod.Path)
			require.Equal(t, filepath.Join("..", dirOf(r.Mod.Path)), filepath.Join(filepath.Dir(file), replaced[r.Mod.Path]), "%s replaces %s", file, r.Mod.Path)
			delete(replaced, r.Mod.Path)
		}
		require.Empty(t, replaced, "%s replaces what it does not require", file)
		return nil
	}))
	require.Greater(t, found, 5)
}

// run runs a program in a directory, and returns what it printed.
func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	command := exec.Command(args[0], args[1:]...)
	command.Dir = dir
	command.Env = append(os.Environ(), env...)
	var stdout, stderr strings.Builder
	command.Stdout, command.Stderr = &stdout, &stderr
	if err := command.Run(); err != nil {
		t.Fatalf("%s in %s: %v\n%s%s", command, dir, err, &stdout, &stderr)
	}
	return stdout.String()
}

// checkout returns a copy of what would be committed.
func checkout(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for file := range strings.SplitSeq(run(t, "..", nil, "git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"), "\x00") {
		data, err := os.ReadFile(filepath.Join("..", file))
		if file == "" || os.IsNotExist(err) {
			continue // It was deleted, and that is not committed yet.
		}
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(file)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), data, 0o644))
	}
	return dir
}

// publish puts a module into a module proxy that is a directory.
func publish(t *testing.T, proxy string, m module.Version, dir string) {
	t.Helper()
	versions := filepath.Join(proxy, filepath.FromSlash(m.Path), "@v")
	require.NoError(t, os.MkdirAll(versions, 0o755))
	mod, err := os.ReadFile(filepath.Join(dir, "go.mod"))
	require.NoError(t, err)
	for name, text := range map[string]string{
		"list":              m.Version + "\n",
		m.Version + ".info": fmt.Sprintf(`{"Version":%q,"Time":"2030-01-01T00:00:00Z"}`, m.Version),
		m.Version + ".mod":  string(mod),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(versions, name), []byte(text), 0o644))
	}
	archive, err := os.Create(filepath.Join(versions, m.Version+".zip"))
	require.NoError(t, err)
	require.NoError(t, zip.CreateFromDir(archive, m, dir))
	require.NoError(t, archive.Close())
}

// What the procedure releases can be used: an empty module gets each of our modules by its version, without a replace,
// and builds a program with all packages of it; and the command can be installed.
func TestRelease(t *testing.T) {
	const version = "v0.1.0"
	top, proxy := checkout(t), t.TempDir()
	released, err := prepare(top, version)
	require.NoError(t, err)
	require.Greater(t, len(released), 5)
	for _, m := range released {
		publish(t, proxy, m, filepath.Join(top, dirOf(m.Path)))
	}

	goenv := func(name string) string { return strings.TrimSpace(run(t, ".", nil, "go", "env", name)) }
	env := []string{
		"GOENV=off", "GOWORK=off", "GOPRIVATE=", "GONOPROXY=",
		// What was downloaded once is not downloaded again, but nothing of ours may come from there.
		"GOPROXY=file://" + proxy + ",file://" + filepath.Join(goenv("GOMODCACHE"), "cache", "download") + "," + goenv("GOPROXY"),
		"GOMODCACHE=" + t.TempDir(),
		"GONOSUMDB=*", // Third parties' sums are checked where our modules are built.
		"GOFLAGS=-mod=mod -modcacherw -trimpath -buildvcs=false",
		"GOBIN=" + t.TempDir(),
	}
	for _, m := range released {
		t.Run(m.Path, func(t *testing.T) {
			dir := t.TempDir()
			run(t, dir, env, "go", "mod", "init", "example.com/consumer")
			run(t, dir, env, "go", "get", m.Path+"@"+version)
			program, imported := "package main\n\nimport (\n", 0
			for line := range strings.Lines(run(t, dir, env, "go", "list", "-f", "{{.Name}} {{.ImportPath}}", m.Path+"/...")) {
				name, importPath, _ := strings.Cut(strings.TrimSpace(line), " ")
				if name != "main" && !strings.Contains(importPath, "/internal/") {
					program += fmt.Sprintf("\t_ %q\n", importPath)
					imported++
				}
			}
			require.NotZero(t, imported)
			require.NoError(t, os.WriteFile(filepath.Join(dir, "main.go"), []byte(program+")\n\nfunc main() {}\n"), 0o644))
			run(t, dir, env, "go", "build", "-o", os.DevNull, ".")

			found := map[string]bool{}
			for line := range strings.Lines(run(t, dir, env, "go", "list", "-m", "-f", "{{.Path}} {{.Version}}{{with .Replace}} replaced{{end}}", "all")) {
				name, got, _ := strings.Cut(strings.TrimSpace(line), " ")
				if ours(name) {
					require.Equal(t, version, got, name)
					found[name] = true
				}
			}
			require.True(t, found[root] && found[m.Path], "%v", found)
		})
	}
	// It refuses a command whose go.mod replaces anything.
	run(t, t.TempDir(), env, "go", "install", root+"/extra/ratelimit-tune@"+version)
}

func TestPrepareRefuses(t *testing.T) {
	for _, version := range []string{"", "0.1.0", "v1", "v2.0.0"} {
		_, err := prepare(t.TempDir(), version)
		require.Error(t, err, version)
	}
}
