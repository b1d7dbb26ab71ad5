package keadm

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tether-edge/tether/common/version"
)

// imageFlags say where images are.
type imageFlags struct {
	repository, tag string
}

func (f *imageFlags) add(c *cobra.Command) {
	c.Flags().StringVar(&f.repository, "image-repository", "", "where CloudCore's image is, such as registry.example/tether")
	c.Flags().StringVar(&f.tag, "image-tag", "", "tag of the image (default: this keadm's version)")
}

// cloudcore is the whole name of CloudCore's image.
func (f *imageFlags) cloudcore() string {
	tag := f.tag
	if tag == "" {
		tag = version.Get().Version
	}
	return strings.TrimSuffix(f.repository, "/") + "/cloudcore:" + tag
}

func newConfig(w IO) *cobra.Command {
	return newGroup("config", "Show what an installation needs: config images", newConfigImages(w))
}

func newConfigImages(w IO) *cobra.Command {
	var f imageFlags
	var output string
	c := &cobra.Command{
		Use:   "images --image-repository REPOSITORY",
		Short: "List the images that 'keadm init --image-repository' makes a cluster pull",
		Long: "List the images that 'keadm init' with the same flags makes a cluster pull, one a line, to mirror them beforehand.\n\n" +
			"An edge node pulls no image of Tether's: edgecore is a program. The pause image, in which every pod's sandbox is, is the\n" +
			"container runtime's own business: containerd's configuration names it (sandbox_image, from 2.0 on pinned_images), and a\n" +
			"site without a way to its registry needs it imported or mirrored like the images of its pods.",
		Example: "  keadm config images --image-repository registry.example/tether",
		Args:    usage(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			if f.repository == "" {
				return fmt.Errorf("%w: expected --image-repository: there is no default host for images", errUsage)
			}
			list := struct {
				Images []string `json:"images"`
			}{[]string{f.cloudcore()}}
			return show(w.Out, output, list, func(t io.Writer) {
				for _, image := range list.Images {
					row(t, image)
				}
			})
		},
	}
	f.add(c)
	outputFlag(c, &output)
	return c
}
