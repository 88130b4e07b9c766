# Builds the tools and installs them with their pages and completions:
#
#   make && sudo make install                     into /usr/local
#   make install DESTDIR=/tmp/root PREFIX=/usr    into a tree for a package
#   make uninstall
#
# BIN is where the built tools lie; to install what scripts/build makes: BIN=target/debug. If they are for another kind of
# computer: RUN=target/release, where ones of the same sources lie that run here.

PREFIX ?= /usr/local
DESTDIR ?=
BIN ?= target/release
RUN ?= $(BIN)
# Where zsh looks for completions, below PREFIX/share: Debian's in /usr/share/zsh/vendor-completions. Not from the
# environment: oh-my-zsh has its own ZSH there.
ZSH = zsh/site-functions

TOOLS = nixos-ami keygen ec2-up ec2-down ec2-ls nix-push nixos-switch
PAGES = nixos-ami/nixos-ami.1 keygen/keygen.1 ec2-up/ec2-up.1 ec2-up/ec2-down.1 ec2-up/ec2-ls.1 \
	nix-push/nix-push.1 nixos-switch/nixos-switch.1 machine-record/machine-record.5 docs/nixpipe.7

bin = $(DESTDIR)$(PREFIX)/bin
share = $(DESTDIR)$(PREFIX)/share

all:
	cargo build --target-dir target --release --locked --workspace --bins

install: install-tools install-share

install-tools:
	@for tool in $(TOOLS); do [ -x "$(BIN)/$$tool" ] || { echo "$(BIN)/$$tool is missing: run make first" >&2; exit 1; }; done
	install -d "$(bin)"
	install -m 755 $(addprefix $(BIN)/,$(TOOLS)) "$(bin)"

# The completions are printed by the tools themselves, so these must run here.
install-share:
	for page in $(PAGES); do install -D -m 644 "$$page" "$(share)/man/man$${page##*.}/$${page##*/}" || exit; done
	install -d "$(share)/bash-completion/completions" "$(share)/$(ZSH)" "$(share)/fish/vendor_completions.d"
	umask 022 && for tool in $(TOOLS); do \
		"$(RUN)/$$tool" --completions bash >"$(share)/bash-completion/completions/$$tool" && \
		"$(RUN)/$$tool" --completions zsh >"$(share)/$(ZSH)/_$$tool" && \
		"$(RUN)/$$tool" --completions fish >"$(share)/fish/vendor_completions.d/$$tool.fish" || exit; \
	done
	install -D -m 644 machine-record/machine-record-v1.schema.json "$(share)/nixpipe/machine-record-v1.schema.json"
	install -D -m 644 docs/iam-policy.json "$(share)/nixpipe/iam-policy.json"
	find examples -type f | while read -r file; do install -D -m 644 "$$file" "$(share)/doc/nixpipe/$$file" || exit; done
	install -D -m 755 scripts/deploy "$(share)/doc/nixpipe/examples/deploy"
	install -D -m 644 README.md "$(share)/doc/nixpipe/README.md"
	install -D -m 644 LICENSE "$(share)/doc/nixpipe/copyright"

uninstall:
	for page in $(PAGES); do rm -f "$(share)/man/man$${page##*.}/$${page##*/}"; done
	for tool in $(TOOLS); do \
		rm -f "$(bin)/$$tool" "$(share)/bash-completion/completions/$$tool" \
			"$(share)/$(ZSH)/_$$tool" "$(share)/fish/vendor_completions.d/$$tool.fish"; \
	done
	rm -rf "$(share)/nixpipe" "$(share)/doc/nixpipe"

.PHONY: all install install-tools install-share uninstall
