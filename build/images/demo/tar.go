package main

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// tarCommand is as much of tar as `kubectl cp` asks for: to pack one path to standard output, and to unpack standard
// input. It knows files and directories.
func tarCommand(args []string, in io.Reader, out io.Writer) error {
	if len(args) > 0 && strings.HasPrefix(args[0], "-") {
		args[0] = args[0][1:]
	}
	switch {
	case len(args) == 3 && args[0] == "cf" && args[1] == "-":
		return packTo(out, args[2])
	case len(args) >= 2 && strings.HasPrefix(args[0], "x") && args[1] == "-":
		dir := "."
		if i := slices.Index(args, "-C"); i > 0 && i+1 < len(args) {
			dir = args[i+1]
		}
		return unpack(in, dir)
	}
	return fmt.Errorf("tar: expected cf - PATH, or xmf - -C DIRECTORY, found %q", args)
}

func packTo(out io.Writer, path string) error {
	w := tar.NewWriter(out)
	err := filepath.Walk(path, func(name string, info fs.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() && !info.IsDir() {
			return err
		}
		h, err := tar.FileInfoHeader(info, "")
		if err != nil {
			return err
		}
		h.Name = strings.TrimPrefix(name, "/")
		if err := w.WriteHeader(h); err != nil || info.IsDir() {
			return err
		}
		file, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.Copy(w, file)
		return errors.Join(err, file.Close())
	})
	if err != nil {
		return fmt.Errorf("tar: %w", err)
	}
	return w.Close()
}

func unpack(in io.Reader, dir string) error {
	for r := tar.NewReader(in); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
		path := filepath.Join(dir, filepath.Join("/", h.Name))
		switch h.Typeflag {
		case tar.TypeDir:
			err = os.MkdirAll(path, 0o755)
		case tar.TypeReg:
			// kubectl cp names no directory that holds something.
			if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
				err = unpackFile(path, r)
			}
		}
		if err != nil {
			return fmt.Errorf("tar: %w", err)
		}
	}
}

func unpackFile(path string, content io.Reader) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
