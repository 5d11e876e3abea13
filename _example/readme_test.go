package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

const readme = "../README.md"

// frame is what a snippet of the README stands in, unless it is a whole program.
const frame = `package readme

import (
%s)

func _(router *gin.Engine, admin *gin.RouterGroup, redisStore ratelimit.Store, login gin.HandlerFunc,
	answer func(*gin.Context) int, addrs []string) {
	{
//line README.md:%d
%s
%s	}
}
`

// imported is where the packages are that snippets name.
var imported = map[string]string{
	"gin":         "github.com/gin-gonic/gin",
	"http":        "net/http",
	"iplist":      "github.com/gin-ratelimit/ratelimit/extra/iplist",
	"limitconfig": "github.com/gin-ratelimit/ratelimit/extra/limitconfig",
	"log":         "log",
	"ratelimit":   "github.com/gin-ratelimit/ratelimit",
	"redis":       "github.com/redis/go-redis/v9",
	"slog":        "log/slog",
	"strings":     "strings",
	"time":        "time",
}

// Every Go block of the README compiles: in the module of what it imports, as a file that is not there.
func TestReadmeCompiles(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	root, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	programs := map[string]string{} // where it is, by where it seems to be
	packages := map[string][]string{}
	for i, block := range regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatchIndex(text, -1) {
		code := string(text[block[2]:block[3]])
		module := root
		if name := regexp.MustCompile(`\b(iplist|limitconfig)\.`).FindStringSubmatch(code); name != nil {
			module = filepath.Join(root, "extra", name[1])
		}
		seems := filepath.Join(module, fmt.Sprintf("readme%d", i), "main.go")
		programs[seems] = filepath.Join(dir, fmt.Sprintf("%d.go", i))
		packages[module] = append(packages[module], filepath.Dir(seems))
		program, whole := strings.CutPrefix(code, "package main\n")
		if whole {
			program = "package readme\n" + program // Compiled as all the others, and not linked.
		} else {
			program = framed(code, 1+bytes.Count(text[:block[2]], []byte("\n")))
		}
		if err := os.WriteFile(programs[seems], []byte(program), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	overlay, err := json.Marshal(map[string]any{"Replace": programs})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(file, overlay, 0o600); err != nil {
		t.Fatal(err)
	}
	for module, packages := range packages {
		build := exec.Command("go", append([]string{"build", "-overlay", file}, packages...)...)
		build.Dir = module
		if out, err := build.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", build, err, out)
		}
	}
}

// framed is a program around a snippet that begins in that line.
func framed(code string, line int) string {
	var imports, uses strings.Builder
	for name, path := range imported {
		if regexp.MustCompile(`\b` + name + `\.`).MatchString(code + frame) {
			fmt.Fprintf(&imports, "\t%s %q\n", name, path)
		}
	}
	// What a snippet shows how to make need not be used in it.
	for _, made := range regexp.MustCompile(`(?m)^(\w+)(?:, (\w+))? := `).FindAllStringSubmatch(code, -1) {
		for _, name := range made[1:] {
			if name != "" {
				fmt.Fprintf(&uses, "_ = %s\n", name)
			}
		}
	}
	return fmt.Sprintf(frame, imports.String(), line, code, uses.String())
}

// Every option of the root package stands in the README.
func TestReadmeHasEveryOption(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(readme)
	if err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob("../*.go")
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		for _, decl := range parsed.Decls {
			f, ok := decl.(*ast.FuncDecl)
			if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "With") {
				continue
			}
			found++
			if !bytes.Contains(text, []byte("| `"+f.Name.Name+"(")) {
				t.Errorf("%s: %s is in no table", file, f.Name.Name)
			}
		}
	}
	if found < 20 {
		t.Errorf("%d options found", found)
	}
}
