package httpapi

import (
	_ "embed"
	"fmt"
	"net/http"
	"sync"

	"github.com/gin-gonic/gin"
	"github.com/goccy/go-yaml"
)

// openAPIYAML describes exactly this API, in OpenAPI 3.1.
//
//go:embed openapi.yaml
var openAPIYAML []byte

// openAPIJSON is the same document as JSON. The document is part of the program: that it can be read is proved by a test.
var openAPIJSON = sync.OnceValue(func() []byte {
	out, err := yaml.YAMLToJSON(openAPIYAML)
	if err != nil {
		panic(fmt.Sprintf("write openapi.yaml as JSON: %v", err))
	}
	return out
})

// openAPI serves the document, to anybody.
func (s *Server) openAPI(contentType string, doc []byte) gin.HandlerFunc {
	return func(c *gin.Context) { write(c, http.StatusOK, contentType, doc) }
}
