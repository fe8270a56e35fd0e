################################################################################
#
# paraglider
#
################################################################################

# The checkout that this external tree is a part of.
PARAGLIDER_SITE = $(BR2_EXTERNAL_PARAGLIDER_PATH)/..
PARAGLIDER_SITE_METHOD = local
PARAGLIDER_VERSION := $(shell sed -n '/^version = /{s/.*"\(.*\)"/\1/p;q}' $(PARAGLIDER_SITE)/Cargo.toml)
PARAGLIDER_LICENSE = MIT
PARAGLIDER_LICENSE_FILES = LICENSE

# What was built there is large and of no use here.
PARAGLIDER_OVERRIDE_SRCDIR_RSYNC_EXCLUSIONS = --exclude /target --exclude /fuzz

# An example, not a config: its addresses do not exist on the board, and
# glider.yaml would be put in force at boot.
define PARAGLIDER_INSTALL_EXAMPLE
	$(INSTALL) -D -m 0644 $(@D)/man/glider.yaml \
		$(TARGET_DIR)/etc/paraglider/glider.yaml.example
endef
PARAGLIDER_POST_INSTALL_TARGET_HOOKS += PARAGLIDER_INSTALL_EXAMPLE

define PARAGLIDER_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(PARAGLIDER_PKGDIR)/S50paraglider \
		$(TARGET_DIR)/etc/init.d/S50paraglider
endef

# Neither iptables nor nft is needed: rules are written to the kernel itself.
# NF_TABLES_INET depends on IPV6, without which NF_TABLES_IPV4 is enough;
# NFT_COUNTER is a part of NF_TABLES since Linux 5.17, NFT_OBJREF since 6.2.
# What a kernel does not know, it ignores.
define PARAGLIDER_LINUX_CONFIG_FIXUPS
	$(call KCONFIG_ENABLE_OPT,CONFIG_INET)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_CONNTRACK)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_CONNTRACK_PROCFS)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_CT_NETLINK)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_TABLES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_TABLES_INET)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_TABLES_IPV4)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_COUNTER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_CT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_MASQ)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_NUMGEN)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_OBJREF)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_REJECT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_REJECT_INET)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_REJECT_IPV4)
	$(PARAGLIDER_LINUX_CONFIG_FIXUPS_IPTABLES)
	$(PARAGLIDER_LINUX_CONFIG_FIXUPS_NFT)
endef

# Where iptables is in the image, rules are written by it, unless the config
# says `engine: nftables`.
# Without NETFILTER_ADVANCED the kernel does not offer the statistic match.
# The options ending in _LEGACY exist from Linux 6.17 on, those with IPV4 and
# IP_NF_TARGET_MASQUERADE before 5.2; IP6_* need IPv6.
ifeq ($(BR2_PACKAGE_IPTABLES),y)
define PARAGLIDER_LINUX_CONFIG_FIXUPS_IPTABLES
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_ADVANCED)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_CONNTRACK_IPV4)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_NAT_IPV4)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XTABLES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XTABLES_LEGACY)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XT_MATCH_CONNTRACK)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XT_MATCH_STATISTIC)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XT_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NETFILTER_XT_TARGET_MASQUERADE)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_IPTABLES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_IPTABLES_LEGACY)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_FILTER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_TARGET_MASQUERADE)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP_NF_TARGET_REJECT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_IPTABLES)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_IPTABLES_LEGACY)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_FILTER)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_NAT)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_TARGET_MASQUERADE)
	$(call KCONFIG_ENABLE_OPT,CONFIG_IP6_NF_TARGET_REJECT)
endef
endif

# iptables may be the one that speaks to nftables.
ifeq ($(BR2_PACKAGE_IPTABLES_NFTABLES),y)
define PARAGLIDER_LINUX_CONFIG_FIXUPS_NFT
	$(call KCONFIG_ENABLE_OPT,CONFIG_NF_TABLES_IPV6)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_CHAIN_NAT_IPV4)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_CHAIN_NAT_IPV6)
	$(call KCONFIG_ENABLE_OPT,CONFIG_NFT_COMPAT)
endef
endif

ifeq ($(BR2_PACKAGE_PARAGLIDER_PREBUILT),y)

PARAGLIDER_PREBUILT_TARGET = $(call qstrip,$(BR2_PACKAGE_PARAGLIDER_PREBUILT_TARGET))
PARAGLIDER_PREBUILT = $(PARAGLIDER_SITE)/target/dist/$(PARAGLIDER_PREBUILT_TARGET)/paraglider

define PARAGLIDER_INSTALL_TARGET_CMDS
	@test -f $(PARAGLIDER_PREBUILT) || { \
		echo "$(PARAGLIDER_PREBUILT) is missing; in the checkout of Paraglider:" \
			"make cross TARGET=$(PARAGLIDER_PREBUILT_TARGET)" >&2; \
		exit 1; \
	}
	$(INSTALL) -D -m 0755 $(PARAGLIDER_PREBUILT) $(TARGET_DIR)/usr/bin/paraglider
endef

$(eval $(generic-package))

else

# Buildroot sets the profile by BR2_OPTIMIZE_* and BR2_ENABLE_LTO. What comes
# last wins: this is the profile of Cargo.toml, made for small flashes.
PARAGLIDER_CARGO_ENV = \
	CARGO_PROFILE_RELEASE_OPT_LEVEL="z" \
	CARGO_PROFILE_RELEASE_LTO="fat" \
	CARGO_PROFILE_RELEASE_CODEGEN_UNITS="1" \
	CARGO_PROFILE_RELEASE_PANIC="abort"

# Buildroot vendors the crates of what it downloads, but a local source is not
# downloaded, and the build is offline. So they are fetched before, by
# Cargo.lock, into the place where the build looks for them.
define PARAGLIDER_FETCH_CRATES
	cd $(@D) && \
	$(TARGET_MAKE_ENV) \
		$(PKG_COMMON_CARGO_ENV) \
		cargo fetch --locked
endef
PARAGLIDER_PRE_BUILD_HOOKS += PARAGLIDER_FETCH_CRATES

$(eval $(cargo-package))

endif
