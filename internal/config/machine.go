package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// workdir returns v as an absolute path of a directory that can be entered, or
// "" when it is none.
func (c *checker) workdir(v Value, u *User) string {
	if v.Given && v.Text == "" {
		c.report(v, errors.New("is empty: write a directory, or leave it out for the current one"))
		return ""
	}
	dir, err := filepath.Abs(v.Text)
	if err != nil {
		c.report(v, fmt.Errorf("cannot tell the current directory: %w", err))
		return ""
	}
	if err := checkDir(dir); err != nil {
		c.report(v, forChild(err, u))
		return ""
	}
	return dir
}

func checkDir(dir string) error {
	if hasNUL(dir) {
		return fmt.Errorf("%q contains a NUL byte: write the path of a directory", dir)
	}
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s does not exist: create it or write another directory", dir)
	case err != nil:
		return fmt.Errorf("%s cannot be used: %w", dir, cause(err))
	case !info.IsDir():
		return fmt.Errorf("%s is not a directory: write one, for example %s", dir, filepath.Dir(dir))
	case !mayEnter(dir):
		return fmt.Errorf("%s may not be entered by this user: it needs the x permission", dir)
	}
	return nil
}

// program returns the absolute path of the child's program, or "". workdir is
// "" when it is not known.
func (c *checker) program(v Value, workdir string, u *User) string {
	switch {
	case !v.Given:
		c.report(v, errors.New("is missing: say which program to start, for example ./server"))
		return ""
	case v.Text == "":
		c.report(v, errors.New("is empty: write the program to start, for example ./server"))
		return ""
	case hasNUL(v.Text):
		c.report(v, fmt.Errorf("%q contains a NUL byte: write the path of a program", v.Text))
		return ""
	}
	path, err := findProgram(v.Text, workdir)
	c.report(v, forChild(err, u))
	return path
}

// findProgram resolves a name with a slash from the current directory, and one
// without in PATH and then in workdir.
func findProgram(name, workdir string) (string, error) {
	if strings.Contains(name, "/") {
		path, err := filepath.Abs(name)
		if err != nil {
			return "", fmt.Errorf("cannot tell the current directory: %w", err)
		}
		err = checkProgram(path)
		if errors.Is(err, fs.ErrNotExist) {
			return "", pathNotFound(name, path)
		}
		return path, err
	}
	var firstErr error
	for _, dir := range searchDirs(workdir) {
		path := filepath.Join(dir, name)
		err := checkProgram(path)
		if err == nil {
			return path, nil
		}
		if firstErr == nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ENOTDIR) {
			firstErr = err
		}
	}
	if firstErr != nil {
		return "", firstErr
	}
	return "", notFound(name, workdir)
}

// searchDirs are the directories of PATH and workdir. Relative entries of PATH
// are left out, as os/exec does: what they mean changes with the directory in
// which somebody happens to start tiproxy.
func searchDirs(workdir string) []string {
	var dirs []string
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), workdir) {
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// checkProgram says why the file at path could not be started. Its error wraps
// fs.ErrNotExist when there is no such file.
func checkProgram(path string) error {
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, syscall.ENOENT):
		return fs.ErrNotExist
	case err != nil:
		return fmt.Errorf("%s cannot be used: %w", path, cause(err))
	case info.IsDir():
		return fmt.Errorf("%s is a directory: write the path of a program", path)
	case !info.Mode().IsRegular():
		return fmt.Errorf("%s is not a regular file: write the path of a program", path)
	}
	if _, err := exec.LookPath(path); err != nil {
		if info.Mode()&0o111 != 0 {
			return fmt.Errorf("%s may not be executed: see its permissions, and whether its file system is mounted noexec", path)
		}
		return fmt.Errorf("%s is not executable: chmod +x %s", path, path)
	}
	return nil
}

func notFound(name, workdir string) error {
	places := "PATH"
	if workdir != "" {
		places += " or in " + workdir
	}
	if here, err := filepath.Abs(name); err == nil && checkProgram(here) == nil {
		return fmt.Errorf("%q not found in %s, but it is in the current directory: write ./%s", name, places, name)
	}
	if program, args, ok := splitArgs(name); ok {
		return fmt.Errorf("%q not found in %s: %w", name, places, &argsError{program, args})
	}
	return fmt.Errorf("%q not found in %s: install it or write its path, such as ./%s", name, places, name)
}

// pathNotFound explains that there is nothing at path, which was written as
// name.
func pathNotFound(name, path string) error {
	if program, args, ok := splitArgs(name); ok {
		return fmt.Errorf("%s not found: %w", path, &argsError{program, args})
	}
	if info, err := os.Lstat(path); err == nil && info.Mode()&fs.ModeSymlink != 0 {
		return fmt.Errorf("%s is a symbolic link to something that does not exist: write another path", path)
	}
	return fmt.Errorf("%s not found: check the path", path)
}

// splitArgs finds out whether somebody wrote the arguments along with the
// program, as for a shell.
func splitArgs(name string) (program, args string, ok bool) {
	program, args, ok = strings.Cut(name, " ")
	return program, strings.TrimSpace(args), ok && program != ""
}

// argsError says where arguments go that were written along with the program.
type argsError struct{ program, args string }

func (e *argsError) Error() string {
	return fmt.Sprintf("arguments go behind --: write --exec %s -- %s", e.program, e.args)
}

// inFile is the error in words of a file.
func (e *argsError) inFile() string {
	return fmt.Sprintf("arguments go into args: write exec: %s and args: [%s]", e.program, strings.Join(strings.Fields(e.args), ", "))
}

// cause strips the operation and the path that package os puts in front.
func cause(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
