package main

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const root = ".."

// claims is the package that runs the snippets of the documentation and asserts what is said of them. The snippets are
// put beside its tests by an overlay, so nobody has to keep copies alike.
const claims = "_example/testdata/recipes"

// pages returns the documentation whose Go code must compile, by path from the root.
func pages(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	texts := map[string]string{}
	for _, path := range append(paths, filepath.Join(root, "README.md"), filepath.Join(root, "SECURITY.md")) {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		name, err := filepath.Rel(root, path)
		require.NoError(t, err)
		texts[filepath.ToSlash(name)] = string(text)
	}
	return texts
}

// snippet is a block of Go code.
type snippet struct {
	where string // "README.md#login"; "README.md#login-2" for the second one under a heading
	page  string
	line  int
	code  string
}

var (
	heading  = regexp.MustCompile(`^#{1,6} (.+)$`)
	notASlug = regexp.MustCompile(`[^\p{L}\p{N} _-]`)
)

// slug is the anchor that GitHub gives a heading.
func slug(heading string) string {
	return strings.ReplaceAll(notASlug.ReplaceAllString(strings.ToLower(heading), ""), " ", "-")
}

// read returns a page's Go code and the anchors of its headings.
func read(page, text string) (snippets []snippet, anchors map[string]bool) {
	anchors = map[string]bool{}
	var under, fence string
	var code []string
	count := map[string]int{}
	for i, line := range strings.Split(text, "\n") {
		switch {
		case fence == "" && strings.HasPrefix(line, "```"):
			fence, code = line, nil
		case line == "```":
			if fence == "```go" {
				where := page + "#" + under
				if count[where]++; count[where] > 1 {
					where += fmt.Sprint("-", count[where])
				}
				snippets = append(snippets, snippet{where, page, i + 1 - len(code), strings.Join(code, "\n") + "\n"})
			}
			fence = ""
		case fence != "":
			code = append(code, line)
		default:
			if h := heading.FindStringSubmatch(line); h != nil {
				under = slug(h[1])
				anchors[under] = true
			}
		}
	}
	return snippets, anchors
}

// frame surrounds a snippet of statements. What the snippet makes is kept for the test of its claim.
const frame = `package recipes

import (
%s)

func init() {
	recipes[%q] = func(p *parts) {
		router, admin, store, login, report := p.router, p.admin, p.store, p.login, p.report
		authenticate, answer, limiter, redisAddr := p.authenticate, p.answer, p.limiter, p.redisAddr
		ctx, user, addrs := p.ctx, p.user, p.addrs
		use(router, admin, store, login, report, authenticate, answer, limiter, redisAddr, ctx, user, addrs)
		{
//line %s:%d
%s
			p.made = map[string]any{%s}
		}
	}
}
`

// outline surrounds a snippet of whole declarations.
const outline = "package recipes\n\nimport (\n%s)\n\n//line %s:%d\n%s"

// elsewhere surrounds a snippet that needs another module. It is compiled there, and not run.
const elsewhere = `package recipes

import (
%s)

func _(router *gin.Engine, store *ratelimit.FallbackStore) {
	{
//line %s:%d
%s
%s	}
}
`

// imported has the import paths of the packages that snippets name.
var imported = map[string]string{
	"context":       "context",
	"errors":        "errors",
	"gin":           "github.com/gin-gonic/gin",
	"http":          "net/http",
	"httptest":      "net/http/httptest",
	"iplist":        "github.com/gin-ratelimit/ratelimit/extra/iplist",
	"console":       "github.com/gin-ratelimit/ratelimit/console",
	"limitconfig":   "github.com/gin-ratelimit/ratelimit/extra/limitconfig",
	"log":           "log",
	"prometheus":    "github.com/prometheus/client_golang/prometheus",
	"promhttp":      "github.com/prometheus/client_golang/prometheus/promhttp",
	"ratelimit":     "github.com/gin-ratelimit/ratelimit",
	"ratelimitotel": "github.com/gin-ratelimit/ratelimit/extra/ratelimitotel",
	"ratelimitprom": "github.com/gin-ratelimit/ratelimit/extra/ratelimitprom",
	"redis":         "github.com/redis/go-redis/v9",
	"require":       "github.com/stretchr/testify/require",
	"slog":          "log/slog",
	"strconv":       "strconv",
	"strings":       "strings",
	"synctest":      "testing/synctest",
	"testing":       "testing",
	"time":          "time",
}

var (
	extra        = regexp.MustCompile(`\b(iplist|limitconfig|ratelimitotel|ratelimitprom)\.`)
	declarations = regexp.MustCompile(`^(func|type|var) `)
	made         = regexp.MustCompile(`(?m)^(\w+)(?:, (\w+))? := `)
)

// program returns the snippet as a file of Go, and the module that it needs.
func (s snippet) program() (module, program string) {
	if whole, ok := strings.CutPrefix(s.code, "package main\n"); ok {
		return "main", "package main\n" + whole
	}
	var names []string
	for _, m := range made.FindAllStringSubmatch(s.code, -1) {
		for _, name := range m[1:] {
			if name != "" && name != "_" && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	if e := extra.FindStringSubmatch(s.code); e != nil {
		uses := ""
		for _, name := range names {
			uses += "_ = " + name + "\n"
		}
		return filepath.Join("extra", e[1]), fmt.Sprintf(elsewhere, imports(s.code+elsewhere), s.page, s.line, s.code, uses)
	}
	if declarations.MatchString(s.code) {
		return ".", fmt.Sprintf(outline, imports(s.code), s.page, s.line, s.code)
	}
	keep := ""
	for _, name := range names {
		keep += fmt.Sprintf("%q: %s, ", name, name)
	}
	return ".", fmt.Sprintf(frame, imports(s.code), s.where, s.page, s.line, s.code, keep)
}

// imports returns the lines that import what code names.
func imports(code string) string {
	var lines strings.Builder
	for _, name := range slices.Sorted(maps.Keys(imported)) {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(code) {
			fmt.Fprintf(&lines, "\t%s %q\n", name, imported[name])
		}
	}
	return lines.String()
}

// Every Go block of the documentation compiles, and those that need the root module alone do what is said of them:
// they run in the package claims, which fails if it has no test of one of them.
func TestDocs(t *testing.T) {
	t.Parallel()
	top, err := filepath.Abs(root)
	require.NoError(t, err)
	dir := t.TempDir()
	programs := map[string]string{} // where it is, by where it seems to be
	packages := map[string][]string{}
	count := 0
	for page, text := range pages(t) {
		snippets, _ := read(page, text)
		for _, s := range snippets {
			count++
			module, program := s.program()
			seems := filepath.Join(top, claims, fmt.Sprintf("snippet%d_test.go", count))
			switch module {
			case ".":
			case "main":
				module = "."
				fallthrough
			default:
				seems = filepath.Join(top, module, fmt.Sprintf("snippet%d", count), "main.go")
				packages[module] = append(packages[module], filepath.Dir(seems))
			}
			programs[seems] = filepath.Join(dir, fmt.Sprintf("%d.go", count))
			require.NoError(t, os.WriteFile(programs[seems], []byte(program), 0o600))
		}
	}
	require.Greater(t, count, 30)
	overlay, err := json.Marshal(map[string]any{"Replace": programs})
	require.NoError(t, err)
	file := filepath.Join(dir, "overlay.json")
	require.NoError(t, os.WriteFile(file, overlay, 0o600))

	run := func(module string, args ...string) {
		command := exec.Command("go", args...)
		command.Dir = filepath.Join(top, module)
		if out, err := command.CombinedOutput(); err != nil {
			t.Errorf("%s in %s: %v\n%s", command, module, err, out)
		}
	}
	flags := []string{"-overlay", file}
	if raced() {
		flags = append(flags, "-race") // It finds the same packages compiled already.
	}
	for module, packages := range packages {
		run(module, slices.Concat([]string{"build", "-o", os.DevNull}, flags, packages)...)
	}
	run(".", slices.Concat([]string{"test"}, flags, []string{"./" + claims})...)
}

// raced reports whether this test runs under the race detector.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	return ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// Links between the documents, and into them, lead somewhere.
func TestDocsLinks(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	for _, name := range []string{"CONTRIBUTING.md", "CHANGELOG.md"} {
		text, err := os.ReadFile(filepath.Join(root, name))
		require.NoError(t, err)
		texts[name] = string(text)
	}
	anchors := map[string]map[string]bool{}
	for page, text := range texts {
		_, anchors[page] = read(page, text)
	}
	link := regexp.MustCompile(`\]\(([^)#\s]*)(?:#([^)\s]*))?\)`)
	checked := 0
	for page, text := range texts {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			target := page
			if m[1] != "" {
				target = filepath.ToSlash(filepath.Join(filepath.Dir(page), m[1]))
			}
			_, err := os.Stat(filepath.Join(root, target))
			require.NoError(t, err, "%s links to %s", page, m[0])
			if m[2] != "" {
				require.True(t, anchors[target][m[2]], "%s links to %s, and %s has no such heading", page, m[0], target)
			}
			checked++
		}
	}
	require.Greater(t, checked, 30)
}

// The README stays what a newcomer reads to the end, and the tasks of an application stay short.
func TestDocsAreShort(t *testing.T) {
	t.Parallel()
	texts := pages(t)
	require.LessOrEqual(t, strings.Count(texts["README.md"], "\n"), 200, "lines of the README")
	tasks := map[string]bool{}
	for _, task := range []string{"show-a-user-what-is-left", "list-all-limits", "limit-by-method", "reset-a-user", "unlock-an-account",
		"upgrade-a-user", "override-the-limits-of-one-tenant", "disable-limits-in-tests"} {
		tasks["docs/recipes.md#"+task] = true
	}
	snippets, _ := read("docs/recipes.md", texts["docs/recipes.md"])
	found := 0
	for _, s := range snippets {
		if tasks[s.where] {
			found++
			require.LessOrEqual(t, strings.Count(s.code, "\n"), 8, "lines of %s", s.where)
		}
	}
	require.Equal(t, len(tasks), found)
}

// functions returns the exported functions and methods of the root package.
func functions(t *testing.T) (found []*ast.FuncDecl) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(root, "*.go"))
	require.NoError(t, err)
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		for _, decl := range parsed.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok && f.Name.IsExported() {
				found = append(found, f)
			}
		}
	}
	require.Greater(t, len(found), 100)
	return found
}

// Every option of the root package is in a table.
func TestDocsHaveEveryOption(t *testing.T) {
	t.Parallel()
	var all strings.Builder
	for _, text := range pages(t) {
		all.WriteString(text)
	}
	found := 0
	for _, f := range functions(t) {
		if f.Recv == nil && strings.HasPrefix(f.Name.Name, "With") {
			found++
			require.Contains(t, all.String(), "| `"+f.Name.Name+"(", "in a table")
		}
	}
	require.Greater(t, found, 20)
}

// A beginner needs few names, and they exist.
func TestDocsForBeginners(t *testing.T) {
	t.Parallel()
	_, section, found := strings.Cut(pages(t)["docs/design.md"], "\n## Twelve names\n")
	require.True(t, found)
	section, _, _ = strings.Cut(section, "\n## ")
	names := regexp.MustCompile("(?m)^\\| `(\\w+)`").FindAllStringSubmatch(section, -1)
	require.Len(t, names, 12)
	for _, name := range names {
		require.True(t, slices.ContainsFunc(functions(t), func(f *ast.FuncDecl) bool { return f.Name.Name == name[1] }), name[1])
	}
}
