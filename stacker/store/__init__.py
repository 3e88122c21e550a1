"""What is kept on disk, named by digest: blobs, layers, images, and the locks between processes."""
