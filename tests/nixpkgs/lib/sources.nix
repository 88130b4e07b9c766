# Folders of source files.
{ lib }:
rec {
  cleanSourceWith = { src, filter ? (_: _: true), name ? baseNameOf src }: builtins.path { path = src; inherit filter name; };
  cleanSource = src: cleanSourceWith { inherit src; filter = cleanSourceFilter; };
  # What version control and editors leave behind is no source.
  cleanSourceFilter = path: type:
    let base = baseNameOf (toString path); in
    !((type == "directory" && lib.elem base [ ".git" ".svn" ".hg" ".jj" ])
      || lib.hasSuffix "~" base
      || builtins.match "[.]sw[a-z]|[.].*[.]sw[a-z]" base != null
      || lib.hasSuffix ".o" base || lib.hasSuffix ".so" base
      || (type == "symlink" && lib.hasPrefix "result" base)
      || type == "unknown");
}
