package config

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
)

// User is who the child runs as.
type User struct {
	Name   string   // login name; "" when this machine has none for UID
	UID    uint32   // real, effective and saved user
	GID    uint32   // likewise the group
	Groups []uint32 // supplementary groups
	Home   string   // "/" when this machine knows none
	Own    bool     // it is tiproxy's own user and group: nothing has to be changed
}

// String names u for people: "user postgres (uid 105)".
func (u *User) String() string {
	if u.Name == "" {
		return fmt.Sprintf("uid %d", u.UID)
	}
	return fmt.Sprintf("user %s (uid %d)", u.Name, u.UID)
}

// Environ returns environ as u should find it: the variables that tell who
// somebody is are u's, or are not there. SHELL is never there: users that run
// servers seldom have one, and programs fall back on /bin/sh by themselves.
func (u *User) Environ(environ []string) []string {
	out := slices.DeleteFunc(slices.Clone(environ), func(kv string) bool {
		name, _, _ := strings.Cut(kv, "=")
		return slices.Contains([]string{"HOME", "USER", "LOGNAME", "SHELL"}, name)
	})
	out = append(out, "HOME="+u.Home)
	if u.Name != "" {
		out = append(out, "USER="+u.Name, "LOGNAME="+u.Name)
	}
	return out
}

// noID is (uid_t) -1, which system calls take for "leave it as it is"
// (setresuid(2)).
const noID = 1<<32 - 1

// user returns who the child is to run as, nil if that was not said or is
// wrong.
func (c *checker) user(v Value) *User {
	if !v.Given {
		return nil
	}
	u, err := ParseUser(v.Text)
	if err == nil && !u.Own {
		err = mayBecome(u)
	}
	if err != nil {
		c.report(v, err)
		return nil
	}
	return u
}

// ParseUser reads NAME or UID, then :GROUP or :GID if the group is not to be
// the user's own. A name is looked up as the system's own programs do where
// tiproxy was built with cgo, and in /etc/passwd and /etc/group elsewhere.
func ParseUser(s string) (*User, error) {
	who, group, hasGroup := strings.Cut(s, ":")
	switch {
	case hasNUL(s):
		return nil, fmt.Errorf("%q contains a NUL byte: write a user's name", s)
	case s == "":
		return nil, errors.New("is empty: write a user's name, or leave it out for tiproxy's own")
	case who == "":
		return nil, fmt.Errorf("%q has no user: write for example %q", s, "nobody"+s)
	case hasGroup && group == "":
		return nil, fmt.Errorf("%q has no group behind the colon: write %q for the user's own group", s, who)
	}
	u, err := findUser(who, hasGroup)
	if err != nil {
		return nil, err
	}
	if hasGroup {
		gid, err := findGroup(group)
		if err != nil {
			return nil, err
		}
		u.Groups = slices.DeleteFunc(u.Groups, func(g uint32) bool { return g == u.GID })
		u.GID = gid
	}
	u.Own = isOwn(u)
	return u, nil
}

func isOwn(u *User) bool {
	uid, gid := int(u.UID), int(u.GID)
	return os.Getuid() == uid && os.Geteuid() == uid && os.Getgid() == gid && os.Getegid() == gid
}

// findUser looks a user up. A number that no user has will do if the group was
// said too: it must not end up as group 0, as it does elsewhere.
func findUser(who string, hasGroup bool) (*User, error) {
	if !isNumber(who) {
		found, err := user.Lookup(who)
		if unknown := user.UnknownUserError(""); errors.As(err, &unknown) {
			return nil, fmt.Errorf("there is no user %q: write one that `getent passwd` shows, or a number with a group, such as 1000:1000", who)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot look up user %q: %w", who, err)
		}
		return newUser(found)
	}
	uid, err := parseID(who)
	if err != nil {
		return nil, err
	}
	found, err := user.LookupId(strconv.FormatUint(uint64(uid), 10))
	switch unknown := user.UnknownUserIdError(0); {
	case err == nil:
		return newUser(found)
	case !errors.As(err, &unknown):
		return nil, fmt.Errorf("cannot look up uid %d: %w", uid, err)
	case !hasGroup:
		return nil, fmt.Errorf("no user has uid %d, so its group is not known: write it too, such as %d:%d", uid, uid, uid)
	}
	return &User{UID: uid, Home: "/"}, nil
}

func newUser(found *user.User) (*User, error) {
	u := &User{Name: found.Username, Home: found.HomeDir}
	if u.Home == "" {
		u.Home = "/"
	}
	var err error
	if u.UID, err = parseID(found.Uid); err != nil {
		return nil, err
	}
	if u.GID, err = parseID(found.Gid); err != nil {
		return nil, err
	}
	groups, err := found.GroupIds()
	if err != nil {
		return nil, fmt.Errorf("cannot look up the groups of user %q: %w", u.Name, err)
	}
	for _, text := range groups {
		gid, err := parseID(text)
		if err != nil {
			return nil, err
		}
		u.Groups = append(u.Groups, gid)
	}
	return u, nil
}

func findGroup(name string) (uint32, error) {
	if isNumber(name) {
		return parseID(name)
	}
	found, err := user.LookupGroup(name)
	if unknown := user.UnknownGroupError(""); errors.As(err, &unknown) {
		return 0, fmt.Errorf("there is no group %q: write one that `getent group` shows, or a number", name)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot look up group %q: %w", name, err)
	}
	return parseID(found.Gid)
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func parseID(s string) (uint32, error) {
	n, err := strconv.ParseUint(s, 10, 32)
	if err != nil || n == noID {
		return 0, fmt.Errorf("%s is no user or group number: write one from 0 to %d", s, uint32(noID-1))
	}
	return uint32(n), nil
}

// forChild says in an error about a file whose eyes it was looked at with.
func forChild(err error, u *User) error {
	if err == nil || u == nil || u.Own {
		return err
	}
	return fmt.Errorf("%w (for %v, see --user)", err, u)
}
