"""A process that offers Triton's models under the OpenAI, TEI and TGI interfaces."""
