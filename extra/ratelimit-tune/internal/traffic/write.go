package traffic

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CSVHeader is the first line of a log in CSV.
const CSVHeader = "begin,ip,method,path,status,agent,plan,cost"

// Formats are the formats that requests can be written in.
func Formats() []string {
	return []string{"common", "combined", "nginx", "traefik", "traefik-json", "gin", "gin-color", "caddy", "envoy", "json", "csv"}
}

// Write writes a log. Servers write a line when a request ends.
func Write(to io.Writer, format string, requests []Request) error {
	out := bufio.NewWriter(to)
	if format == "csv" {
		_, _ = out.WriteString(CSVHeader + "\n") // Flush returns the error.
	}
	byEnd := slices.Clone(requests)
	slices.SortStableFunc(byEnd, func(a, b Request) int { return a.Begin.Add(a.Took).Compare(b.Begin.Add(b.Took)) })
	for i := range byEnd {
		_, _ = out.WriteString(Line(format, &byEnd[i]) + "\n")
	}
	return out.Flush()
}

// Line is the line of a request.
func Line(format string, r *Request) string {
	end := r.Begin.Add(r.Took)
	switch format {
	case "common":
		return common(r, r.Begin)
	case "combined":
		return combined(r, r.Begin)
	case "nginx": // log_format timed '… "$http_user_agent" $request_time $msec';
		return fmt.Sprintf("%s %.3f %d.%03d", combined(r, end), r.Took.Seconds(), end.Unix(), end.Nanosecond()/1e6)
	case "traefik":
		return fmt.Sprintf(`%s 17 "web@docker" "http://10.0.0.2:80" %dms`, combined(r, r.Begin), r.Took.Milliseconds())
	case "traefik-json":
		return object(map[string]any{
			"ClientAddr": r.Client + ":41234", "ClientHost": r.Client, "ClientUsername": dash(r.User), "StartUTC": r.Begin.UTC(), "Duration": r.Took,
			"DownstreamStatus": r.Status, "DownstreamContentSize": r.Bytes, "RequestMethod": r.Method, "RequestPath": r.Path,
			"request_User-Agent": r.Agent, "level": "info", "time": end.UTC().Format(time.RFC3339),
		})
	case "gin":
		return gin(r, end, "", "", "", "")
	case "gin-color":
		return gin(r, end, "\x1b[97;42m", "\x1b[97;44m", "\x1b[90;47m", "\x1b[0m")
	case "caddy":
		return object(map[string]any{
			"level": "info", "ts": json.Number(fmt.Sprintf("%d.%06d", end.Unix(), end.Nanosecond()/1000)), "logger": "http.log.access", "msg": "handled request",
			"request": map[string]any{
				"remote_ip": "10.0.0.1", "remote_port": "41234", "client_ip": r.Client, "proto": "HTTP/2.0", "method": r.Method, "host": "example.com",
				"uri": r.Path, "headers": map[string]any{"User-Agent": []string{r.Agent}, "Referer": []string{r.Referer}},
			},
			"user_id": r.User, "duration": r.Took.Seconds(), "size": r.Bytes, "status": r.Status,
		})
	case "envoy":
		return object(map[string]any{
			"start_time": r.Begin.UTC().Format("2006-01-02T15:04:05.000Z"), "duration": r.Took.Milliseconds(), "response_code": r.Status,
			"downstream_remote_address": r.Client + ":41234", "x_forwarded_for": nil, "method": r.Method, "path": r.Path, "user_agent": r.Agent, "bytes_sent": r.Bytes,
		})
	case "json":
		return object(map[string]any{
			"at": end.UnixMicro(), "elapsed_ms": float64(r.Took.Microseconds()) / 1000, "http": map[string]any{"client": r.Client, "status": strconv.Itoa(r.Status)},
			"http.method": r.Method, "url": r.Path, "ua": r.Agent, "account": map[string]any{"plan": r.Plan}, "cost": r.Cost,
		})
	case "csv":
		var fields []string
		for _, field := range []string{r.Begin.Format("2006-01-02 15:04:05.000000-07:00"), r.Client, r.Method, r.Path, strconv.Itoa(r.Status), r.Agent, r.Plan, strconv.Itoa(r.Cost)} {
			if strings.ContainsAny(field, `",`) {
				field = `"` + strings.ReplaceAll(field, `"`, `""`) + `"`
			}
			fields = append(fields, field)
		}
		return strings.Join(fields, ",")
	}
	panic("traffic: format " + format + " is unknown")
}

func common(r *Request, stamp time.Time) string {
	return fmt.Sprintf(`%s - %s [%s] "%s %s HTTP/1.1" %03d %d`, r.Client, dash(r.User), stamp.Format("02/Jan/2006:15:04:05 -0700"), r.Method, Escape(r.Path), r.Status, r.Bytes)
}

func combined(r *Request, stamp time.Time) string {
	return fmt.Sprintf(`%s "%s" "%s"`, common(r, stamp), dash(Escape(r.Referer)), dash(Escape(r.Agent)))
}

func gin(r *Request, end time.Time, status, method, latency, reset string) string {
	return fmt.Sprintf("[GIN] %v |%s %3d %s|%s %8v %s| %15s |%s %-7s %s %#v", end.Local().Format("2006/01/02 - 15:04:05"),
		status, r.Status, reset, latency, r.Took, reset, r.Client, method, r.Method, reset, r.Path)
}

func object(fields map[string]any) string {
	text, err := json.Marshal(fields)
	if err != nil {
		panic(err) // Texts and numbers alone.
	}
	return string(text)
}

func dash(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

// Escape escapes a text as nginx does within quotes.
func Escape(text string) string {
	var b strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			fmt.Fprintf(&b, `\x%02X`, c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}
