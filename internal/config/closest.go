package config

import "strings"

// synonyms are the words that other programs use for our settings.
var synonyms = map[string]string{
	"listen": "bind", "address": "bind", "addr": "bind", "port": "bind", "frontend": "bind",
	"target": "dest", "backend": "dest", "upstream": "dest", "destination": "dest", "connect": "dest",
	"command": "exec", "cmd": "exec", "program": "exec", "run": "exec",
	"cwd": "workdir", "dir": "workdir", "chdir": "workdir", "directory": "workdir",
	"environment": "env", "verbose": "log-level", "debug": "log-level", "signal": "stop-signal",
}

// Closest returns the known setting that was most likely meant, "" if none is near.
func Closest(word string, known []string) string {
	const most = 64 // bytes of a word that can be one of ours
	if len(word) > most {
		return ""
	}
	best, bestCost := "", 1+max(1, len(word)/3)
	for _, k := range known {
		cost := distance(word, k)
		if synonyms[word] == k || len(word) >= 3 && strings.HasPrefix(k, word) {
			cost = min(cost, 1)
		}
		if cost < bestCost && cost < len(k) {
			best, bestCost = k, cost
		}
	}
	return best
}

// distance counts the letters to insert, delete, replace or swap with their
// neighbour to get from a to b.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			change := rows[i-1][j-1]
			if a[i-1] != b[j-1] {
				change++
			}
			rows[i][j] = min(change, rows[i-1][j]+1, rows[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], rows[i-2][j-2]+1)
			}
		}
	}
	return rows[len(a)][len(b)]
}
