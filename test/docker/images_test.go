//go:build linux

package dockere2e

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// The stand-ins, under names that nobody can take for the real ones.
const (
	tidbImage = "tidb-stand-in:test"
	pdImage   = "pd-stand-in:test"
	tikvImage = "tikv-stand-in:test"
)

// root is the repository, seen from this package.
const root = "../.."

// makeImages builds the stand-ins: a libc and a shell from this machine's
// Debian, which is what TiDB's image has for tiproxy, and the stand-in itself.
func (l *lab) makeImages() error {
	program := filepath.Join(l.dir, "standin")
	build := exec.Command("go", "build", "-ldflags", "-s -w", "-o", program, ".")
	build.Dir = filepath.Join(root, "docker/testdata/standin")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOFLAGS=-mod=readonly")
	if err := run(build); err != nil {
		return fmt.Errorf("build the stand-in: %w", err)
	}
	for image, name := range map[string]string{tidbImage: "/tidb-server", pdImage: "/pd-server", tikvImage: "/tikv-server"} {
		files, err := withLibraries(map[string]string{"/bin/sh": "/bin/dash"})
		if err != nil {
			return err
		}
		files[name] = program
		if err := l.importImage(image, files, fmt.Sprintf("ENTRYPOINT [%q]", name)); err != nil {
			return err
		}
	}
	return nil
}

// withLibraries adds what programs are linked with. Both sides of the map are
// paths: in the image, and on this machine.
func withLibraries(files map[string]string) (map[string]string, error) {
	all := maps.Clone(files)
	for _, program := range files {
		list, err := output(exec.Command("ldd", program))
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(list) {
			if strings.HasPrefix(word, "/") {
				all[word] = word
			}
		}
	}
	return all, nil
}

// importImage makes an image of some files and the directories that programs
// expect. change is an instruction of a Dockerfile.
func (l *lab) importImage(name string, files map[string]string, change string) error {
	cmd := l.engine.command("docker", "import", "--change", change, "-", name)
	in, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	wrote := make(chan error, 1)
	go func() {
		wrote <- errors.Join(writeTar(in, files), in.Close())
	}()
	return errors.Join(run(cmd), <-wrote)
}

func writeTar(to io.Writer, files map[string]string) error {
	w := tar.NewWriter(to)
	for dir, mode := range map[string]int64{"tmp/": 0o1777, "run/": 0o755, "etc/": 0o755, "var/lib/": 0o755} {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir, Mode: mode}); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := addFile(w, name, files[name]); err != nil {
			return fmt.Errorf("%s: %w", files[name], err)
		}
	}
	return w.Close()
}

func addFile(w *tar.Writer, name, path string) error {
	content, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	head := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(name, "/"), Mode: int64(info.Mode().Perm()), Size: int64(len(content))}
	if err := w.WriteHeader(head); err != nil {
		return err
	}
	_, err = io.Copy(w, bytes.NewReader(content))
	return err
}

// copyTree copies the repository as a fresh checkout would have it, so that
// typing people's lines there leaves nothing in the real one.
func (l *lab) copyTree() error {
	l.tree = filepath.Join(l.dir, "tiproxy")
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			if d.Name() == ".git" || name == "dist" {
				return filepath.SkipDir
			}
			return os.MkdirAll(filepath.Join(l.tree, name), 0o755)
		}
		if name == "tiproxy" || filepath.Dir(name) == "docker/bin" && d.Name() != ".gitignore" || !d.Type().IsRegular() {
			return nil
		}
		content, err := os.ReadFile(path)
		if errors.Is(err, os.ErrNotExist) {
			return nil // somebody's temporary file
		}
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(l.tree, name), content, info.Mode().Perm())
	})
}
