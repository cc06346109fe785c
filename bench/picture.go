//go:build linux

package main

import (
	"fmt"
	"html"
	"strings"
)

// The picture's measures, in pixels.
const (
	pictureWide  = 900
	labelWide    = 190
	barHigh      = 15
	barStep      = 20
	panelTop     = 34
	panelGap     = 18
	valueWide    = 70
	histogramTop = 160
)

// colours stand out from white and from black alike. Ours come first.
var (
	ourColours   = []string{"#2f81f7", "#1a9c8a", "#8250df"}
	theirColours = []string{"#d4762c", "#b35fa6", "#8f8a2b", "#6e7781"}
	bareColour   = "#57a55a"
	histogramTo  = 125 // buckets
)

// picture shows the speeds as bars, no proxy being 1, and how the round trips
// are distributed. Text has the reader's own colours.
func (r *results) picture() string {
	var w strings.Builder
	y := 10
	for _, m := range speeds {
		y = r.panel(&w, m, y)
	}
	y = r.histogram(&w, y)
	const style = `text{font:13px system-ui,sans-serif;fill:#24292f}.h{font-weight:600}.s{font-size:12px}line{stroke:#8b949e;stroke-width:1}` +
		`polyline{fill:none;stroke-width:2}@media(prefers-color-scheme:dark){text{fill:#e6edf3}}`
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img">`+
		"<title>tiproxy beside other proxies and beside no proxy</title><style>%s</style>\n%s</svg>\n", pictureWide, y, pictureWide, y, style, w.String())
}

// colour returns a subject's colour.
func (r *results) colour(who string) string {
	us, they := 0, 0
	for _, s := range r.Subjects {
		c := bareColour
		switch {
		case s == noProxy:
		case strings.HasPrefix(s, ours+" "):
			c = ourColours[us%len(ourColours)]
			us++
		default:
			c = theirColours[they%len(theirColours)]
			they++
		}
		if s == who {
			return c
		}
	}
	return bareColour
}

// panel draws one measure and returns where the next one begins.
func (r *results) panel(w *strings.Builder, m measure, y int) int {
	text(w, 10, y+18, "h", m.plain()+" (no proxy = 1)")
	most := 1.0
	for _, who := range r.Subjects {
		if s, ok := r.ratio(who, noProxy, m); ok {
			most = max(most, s.high)
		}
	}
	scale := float64(pictureWide-labelWide-valueWide-20) / most
	y += panelTop
	for _, who := range r.Subjects {
		s, ok := r.ratio(who, noProxy, m)
		if !ok {
			continue
		}
		text(w, 10, y+12, "", who)
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`, labelWide, y, s.median*scale, barHigh, r.colour(who))
		middle := y + barHigh/2
		fmt.Fprintf(w, `<line x1="%.1f" y1="%d" x2="%.1f" y2="%d"/>`, labelWide+s.low*scale, middle, labelWide+s.high*scale, middle)
		text(w, labelWide+int(max(s.high, s.median)*scale)+8, y+12, "s", fmt.Sprintf("%.2f", s.median))
		y += barStep
	}
	return y + panelGap
}

// histogram draws how often a round trip took how long.
func (r *results) histogram(w *strings.Builder, y int) int {
	text(w, 10, y+18, "h", "One connection's round trip, µs: how often which time was seen")
	base, left := y+panelTop+histogramTop, 20
	step := float64(pictureWide-2*left) / float64(histogramTo)
	fmt.Fprintf(w, `<line x1="%d" y1="%d" x2="%d" y2="%d"/>`, left, base, pictureWide-left, base)
	for us := 0; us < histogramTo*int(bucket.Microseconds()); us += 50 {
		x := left + int(float64(us)/float64(bucket.Microseconds())*step)
		text(w, x, base+16, "s", fmt.Sprint(us))
	}
	legend := y + panelTop
	for _, who := range r.Subjects {
		buckets := r.RoundTrips[who]
		sum, most := 0, 1
		for i, n := range buckets {
			sum += n
			if i < histogramTo {
				most = max(most, n)
			}
		}
		if sum == 0 {
			continue
		}
		fmt.Fprintf(w, `<polyline stroke="%s" points="`, r.colour(who))
		for i, n := range buckets[:min(histogramTo, len(buckets))] {
			fmt.Fprintf(w, "%.1f,%.1f ", float64(left)+float64(i)*step, float64(base)-float64(n)/float64(most)*(histogramTop-10))
		}
		w.WriteString(`"/>`)
		fmt.Fprintf(w, `<rect x="%d" y="%d" width="12" height="12" fill="%s"/>`, pictureWide-200, legend, r.colour(who))
		text(w, pictureWide-180, legend+11, "s", who)
		legend += barStep
	}
	return base + 30
}

// text writes a line, of the class that style has a rule for.
func text(w *strings.Builder, x, y int, class, s string) {
	fmt.Fprintf(w, `<text x="%d" y="%d" class="%s">%s</text>`+"\n", x, y, class, html.EscapeString(s))
}
