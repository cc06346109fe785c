package config

import (
	"fmt"
	"os"
	"os/user"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseUser(t *testing.T) {
	t.Parallel()
	const home = "/" // of whom the machine does not know
	for s, want := range map[string]User{
		"3999999999:7":                {UID: 3999999999, GID: 7, Home: home},
		"3999999999:4294967294":       {UID: 3999999999, GID: 4294967294, Home: home},
		"03999999999:00":              {UID: 3999999999, GID: 0, Home: home},
		"3999999999:" + groupName(t):  {UID: 3999999999, GID: ownID(os.Getgid()), Home: home},
		fmt.Sprint(os.Getuid(), ":4"): withGroup(t, 4),
		userName(t) + ":4":            withGroup(t, 4),
	} {
		got, err := ParseUser(s)
		if err != nil {
			t.Errorf("ParseUser(%q): %v", s, err)
			continue
		}
		if diff := cmp.Diff(want, *got); diff != "" {
			t.Errorf("ParseUser(%q) (-want +got):\n%s", s, diff)
		}
	}
	own, err := ParseUser(userName(t))
	if err != nil || !own.Own || !slices.Contains(own.Groups, own.GID) {
		t.Errorf("our own user is %+v, %v", own, err)
	}
}

// withGroup is our own user with another group: its own primary group is not
// among its groups then.
func withGroup(t *testing.T, gid uint32) User {
	t.Helper()
	u, err := ParseUser(userName(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Groups = slices.DeleteFunc(u.Groups, func(g uint32) bool { return g == u.GID })
	u.GID, u.Own = gid, false
	return *u
}

func userName(t *testing.T) string {
	t.Helper()
	u, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return u.Username
}

func groupName(t *testing.T) string {
	t.Helper()
	g, err := user.LookupGroupId(fmt.Sprint(os.Getgid()))
	if err != nil {
		t.Fatal(err)
	}
	return g.Name
}

func ownID(id int) uint32 { return uint32(id) }

func TestUser_Environ(t *testing.T) {
	t.Parallel()
	before := []string{"PATH=/bin", "HOME=/root", "USER=root", "LOGNAME=root", "SHELL=/bin/zsh", "HOMEPAGE=x"}
	for _, tt := range []struct {
		user User
		want []string
	}{
		{User{Name: "me", Home: "/home/me"}, []string{"PATH=/bin", "HOMEPAGE=x", "HOME=/home/me", "USER=me", "LOGNAME=me"}},
		{User{UID: 7, Home: "/"}, []string{"PATH=/bin", "HOMEPAGE=x", "HOME=/"}},
	} {
		if diff := cmp.Diff(tt.want, tt.user.Environ(before)); diff != "" {
			t.Errorf("%v (-want +got):\n%s", &tt.user, diff)
		}
	}
}

func FuzzParseUser(f *testing.F) {
	for _, s := range []string{"root", "0", "0:0", "nobody:nogroup", ":", "a:b:c", "-1", "4294967296:0", "", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := ParseUser(s)
		if err != nil {
			oneLine(t, err)
			return
		}
		if u.UID == noID || u.GID == noID || slices.Contains(u.Groups, noID) {
			t.Errorf("%q is %+v: -1 changes nothing", s, u)
		}
	})
}
