package direct

import (
	"slices"
	"testing"
)

func TestEnviron(t *testing.T) {
	for _, tt := range []struct{ have, want []string }{
		{nil, []string{"GODEBUG=multipathtcp=0"}},
		{[]string{"A=1"}, []string{"A=1", "GODEBUG=multipathtcp=0"}},
		{[]string{"GODEBUG=netdns=go", "A=1"}, []string{"GODEBUG=netdns=go,multipathtcp=0", "A=1"}},
		{[]string{"GODEBUG="}, []string{"GODEBUG=multipathtcp=0"}},
		{[]string{"GODEBUG=multipathtcp=1"}, []string{"GODEBUG=multipathtcp=1,multipathtcp=0"}},
		{[]string{"XGODEBUG=1"}, []string{"XGODEBUG=1", "GODEBUG=multipathtcp=0"}},
	} {
		before := slices.Clone(tt.have)
		if got := Environ(tt.have); !slices.Equal(got, tt.want) {
			t.Errorf("Environ(%q) = %q, want %q", tt.have, got, tt.want)
		}
		if !slices.Equal(before, tt.have) {
			t.Errorf("Environ changed its argument: %q", tt.have)
		}
	}
}
