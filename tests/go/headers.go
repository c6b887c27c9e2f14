// Reads archives as Go's archive/tar does and prints what is in them, for tests/it/headers.rs.
//
// Standard input holds archives, each with its length in decimal and a newline before it. For each
// archive there is a line an entry and a line "end", or "error" where the reader gives up, or "huge"
// where a sparse file would be gigabytes of zeros. What an error message says is not compared: Go's
// has no place and no field.
package main

import (
	"archive/tar"
	"bufio"
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"sort"
	"strconv"
	"strings"
)

const (
	xattr = "SCHILY.xattr."
	most  = 4 << 20
)

var errHuge = errors.New("huge")

func main() {
	in := bufio.NewReader(os.Stdin)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	for {
		line, err := in.ReadString('\n')
		if err == io.EOF && line == "" {
			return
		}
		length, err := strconv.Atoi(strings.TrimSuffix(line, "\n"))
		if err != nil {
			panic(err)
		}
		archive := make([]byte, length)
		if _, err := io.ReadFull(in, archive); err != nil {
			panic(err)
		}
		switch err := list(archive, out); err {
		case nil:
			fmt.Fprintln(out, "end")
		case errHuge:
			fmt.Fprintln(out, "huge")
		default:
			fmt.Fprintln(out, "error")
		}
	}
}

func list(archive []byte, out io.Writer) error {
	reader := tar.NewReader(bytes.NewBuffer(archive))
	for {
		h, err := reader.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		data := sha256.New()
		size, err := io.Copy(data, io.LimitReader(reader, most))
		if err == nil && size == most {
			return errHuge
		}
		if err != nil {
			return err
		}
		if h.Typeflag == tar.TypeXGlobalHeader {
			// Clients pass over it.
			continue
		}
		link := ""
		if h.Typeflag == tar.TypeLink || h.Typeflag == tar.TypeSymlink {
			link = h.Linkname
		}
		major, minor := int64(0), int64(0)
		if h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock {
			major, minor = h.Devmajor, h.Devminor
		}
		names := []string{}
		for key := range h.PAXRecords {
			if strings.HasPrefix(key, xattr) {
				names = append(names, key)
			}
		}
		sort.Strings(names)
		attributes := []string{}
		for _, key := range names {
			attributes = append(attributes, fmt.Sprintf("%x=%x", key[len(xattr):], h.PAXRecords[key]))
		}
		kind := h.Typeflag
		if kind == tar.TypeGNUSparse {
			kind = tar.TypeReg
		}
		fmt.Fprintf(out, "%d %x %x %d %x %o %d %d %d.%09d %d,%d %s\n", kind, h.Name, link, size,
			data.Sum(nil)[:8], h.Mode&07777, uint32(h.Uid), uint32(h.Gid), h.ModTime.Unix(),
			h.ModTime.Nanosecond(), major, minor, strings.Join(attributes, " "))
	}
}
